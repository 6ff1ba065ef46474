// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// ztunnels are the processes that serve now, by node.
func ztunnels(s *spine) map[string]int {
	pids := map[string]int{}
	for _, n := range s.Nodes() {
		pids[n.Name] = n.System.Ztunnel.Child()
	}
	return pids
}

// checkSealed fails unless the ztunnels that served from the start are the ones that serve now, without a privilege
// and under a system call filter. The filter kills: a forbidden call would have shown as another process.
func checkSealed(t *testing.T, s *spine, before map[string]int) {
	for node, pid := range ztunnels(s) {
		if pid == 0 || pid != before[node] {
			t.Errorf("node %s: ztunnel was process %d, now it is %d:\n%s", node, before[node], pid, s.Node(node).System.Ztunnel.Output())
			continue
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Error(err)
			continue
		}
		for field, want := range map[string]string{
			"Seccomp": "2", "NoNewPrivs": "1", "Uid": "65532", "Gid": "65532",
			"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapAmb": "0000000000000000",
		} {
			got := strings.Fields(statusField(string(status), field))
			if len(got) == 0 || want != "" && got[0] != want {
				t.Errorf("node %s: ztunnel's %s is %v, want %s", node, field, got, want)
			}
		}
		page, _, err := s.Node(node).System.Ztunnel.Pod.Get("http://localhost:15020/metrics")
		for _, name := range []string{"process_cpu_seconds_total ", "process_resident_memory_bytes ", "process_start_time_seconds "} {
			if err != nil || !strings.Contains(page, "\n"+name) {
				t.Errorf("node %s: ztunnel's metrics lack %s(%v)", node, name, err)
			}
		}
	}
}

func statusField(status, name string) string {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

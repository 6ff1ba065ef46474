// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/warren-mesh/warren/tests/testutil"
)

// TestCNIFirstConnection starts 50 pods one after the other, as a runtime does it. Each connects as soon as its plugin
// is done: not one connection is in plaintext, the object that follows changes nothing of the capture, and the pod
// leaves no trace.
func TestCNIFirstConnection(t *testing.T) {
	testutil.Privileged(t)
	m := New(t, Options{AgentFlags: cniFlags(15 * time.Second)})
	m.Namespace("app", Enrolled())
	a, far := m.Node("a"), m.Node("b").Pod("far", In("app"), ServiceAccount("far"))
	runtimeDirs(t, a)
	runtimeDirs(t, m.Node("b"))
	echo(t, far, ":8080")
	m.Up()
	chained(t, a)
	outside := a.Pod("outside", In("outside"))
	m.waitKnown(t, m.Node("b"), outside.Name, true)
	wire := m.Capture()
	if _, _, err := talk(t, outside, "tcp4", far.Addr("tcp4", 8080).String(), "first-of-outside"); err != nil {
		t.Fatal(err)
	}
	before := len(a.Pins())
	var took []time.Duration
	for i := range 50 {
		p := scheduled(a, fmt.Sprintf("new-%d", i), In("app"), ServiceAccount("new"))
		m.waitKnown(t, a, p.Name, true)
		got := p.cni(t, cniCall{command: "ADD"})
		if got.code != 0 {
			t.Fatalf("ADD of pod %d: %s", i, got.stdout)
		}
		took = append(took, got.took)
		network := []string{"tcp4", "tcp6"}[i%2]
		if _, _, err := talk(t, p, network, far.Addr(network, 8080).String(), fmt.Sprintf("first-of-%d-", i)); err != nil {
			t.Errorf("first connection of pod %d: %v", i, err)
		}
		var want, same any
		if err := json.Unmarshal([]byte(prevResult(fmt.Sprintf("/proc/%d/ns/net", p.PID()), []netip.Addr{p.IPv4, p.IPv6})), &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(got.stdout), &same); err != nil || !cmp.Equal(want, same) {
			t.Errorf("result of pod %d: %v\n%s", i, err, cmp.Diff(want, same))
		}
		if i%10 == 0 {
			p.reported()
			m.WaitCaptured(p, "true")
			if n := strings.Count(a.System.Broker.Output(), `msg="pod captured" pod=app/`+p.Name+" "); n != 1 {
				t.Errorf("pod %d was captured %d times", i, n)
			}
		}
		if got := p.cni(t, cniCall{command: "DEL"}); got.code != 0 || got.stdout != "" {
			t.Errorf("DEL of pod %d: %d %s", i, got.code, got.stdout)
		}
		p.Delete()
	}
	wire.Stop()
	seen := false
	for _, flow := range wire.Contains([]byte("first-of-")) {
		if !strings.Contains(fmt.Sprint(flow), outside.IPv4.String()+":") {
			t.Errorf("in plaintext: %v", flow)
		}
		seen = true
	}
	if !seen {
		t.Error("the connection from outside was not seen: the test sees nothing")
	}
	t.Logf("ADD of pods of the mesh took %s", quantiles(took))
	took = nil
	for range 50 {
		got := outside.cni(t, cniCall{command: "ADD"})
		if got.code != 0 {
			t.Fatalf("ADD of a pod outside: %s", got.stdout)
		}
		took = append(took, got.took)
	}
	t.Logf("ADD of pods outside took %s", quantiles(took))
	testutil.Eventually(t, 40*time.Second, "the pods' kernel objects are gone", func() bool { return len(a.Pins()) == before })
	if left, _ := os.ReadDir(a.file(stateDir + "/sandboxes")); len(left) > 0 {
		t.Errorf("sandboxes are still kept: %v", left)
	}
}

// quantiles of 50 durations.
func quantiles(d []time.Duration) string {
	slices.Sort(d)
	return fmt.Sprintf("p50 %v, p90 %v, p99 %v", d[24].Round(time.Millisecond/10), d[44].Round(time.Millisecond/10), d[49].Round(time.Millisecond/10))
}

// TestCNIAgentAway starts pods while the agent is down: those outside the mesh start, by what the agent knew; those of
// the mesh, and of namespaces nobody knows, fail and say why, until it is back.
func TestCNIAgentAway(t *testing.T) {
	testutil.Privileged(t)
	const deadline = 2 * time.Second
	m := New(t, Options{AgentFlags: cniFlags(deadline)})
	m.Namespace("app", Enrolled())
	m.Namespace("outside")
	a := m.Node("a")
	runtimeDirs(t, a)
	m.Up()
	entry := chained(t, a)
	if entry["runDir"] != "/run/warren" || entry["stateDir"] != stateDir || entry["deadline"] != "2s" {
		t.Errorf("entry: %v", entry)
	}
	// Announced before the object has an address, and the agent starts anew in between.
	early := scheduled(a, "early", In("app"))
	if got := early.cni(t, cniCall{command: "ADD"}); got.code != 0 {
		t.Fatalf("ADD: %s", got.stdout)
	}
	testutil.Eventually(t, 5*time.Second, "namespaces are cached", func() bool {
		b, _ := os.ReadFile(a.file(stateDir + "/namespaces.json"))
		return strings.Contains(string(b), `"app"`)
	})
	if err := a.System.Agent.Kill(); err != nil {
		t.Fatal(err)
	}
	enrolled, outside := scheduled(a, "enrolled", In("app")), scheduled(a, "outside", In("outside"))
	unknown, excluded := scheduled(a, "unknown", In("unheard-of")), scheduled(a, "system", In("kube-system"))
	for _, test := range []struct {
		pod   *Pod
		error string // part of it; "": none
	}{
		{outside, ""}, {excluded, ""},
		{enrolled, "pod app/enrolled not started: namespace app is in the mesh, and warren-agent did not answer within 2s"},
		{unknown, "pod unheard-of/unknown not started: whether namespace unheard-of is in the mesh is not known"},
	} {
		got := test.pod.cni(t, cniCall{command: "ADD"})
		if (got.code == 0) != (test.error == "") || !strings.Contains(got.error(), test.error) {
			t.Errorf("ADD of %s: %d %s", test.pod, got.code, got.stdout)
		}
		if got.took > deadline+time.Second {
			t.Errorf("ADD of %s took %v", test.pod, got.took)
		}
		for _, c := range []cniCall{{}, {netns: "/gone"}, {stdin: []byte("garbage")}, {stdin: []byte{}}} {
			c.command = "DEL"
			if got := test.pod.cni(t, c); got.code != 0 || got.took > 3*time.Second {
				t.Errorf("DEL of %s: %d in %v: %s", test.pod, got.code, got.took, got.stdout)
			}
		}
	}
	if err := a.System.Agent.Start(); err != nil {
		t.Fatal(err)
	}
	// No wait for the agent: the plugin does that. The pods are there already, so it is quick.
	if got := retry(t, enrolled); got.code != 0 {
		t.Errorf("the agent is back: %s", got.stdout)
	}
	m.WaitCaptured(enrolled, "true")
	m.WaitCaptured(early, "true")
	early.reported()
	testutil.Eventually(t, 5*time.Second, "the object's address is taken over", func() bool {
		left, _ := os.ReadDir(a.file(stateDir + "/sandboxes"))
		return len(left) == 1 // the other pod's
	})
	log := a.System.Broker.Output()
	if n := strings.Count(log, `msg="pod captured" pod=app/early `); n != 1 || strings.Contains(log, `msg="pod un-enrolled" pod=app/early `) {
		t.Errorf("the pod announced to the agent before was captured %d times; the broker:\n%s", n, log)
	}
}

// retry is the kubelet: it asks again after a failure.
func retry(t *testing.T, p *Pod) (got cniAnswer) {
	for range 5 {
		if got = p.cni(t, cniCall{command: "ADD"}); got.code == 0 {
			break
		}
	}
	return got
}

// TestCNIOtherNamespace hands over namespaces that are not the pod's, and asks for pods that can't be.
func TestCNIOtherNamespace(t *testing.T) {
	testutil.Privileged(t)
	m := New(t, Options{AgentFlags: cniFlags(2 * time.Second)})
	m.Namespace("app", Enrolled())
	a := m.Node("a")
	runtimeDirs(t, a)
	m.Up()
	chained(t, a)
	victim := a.Pod("victim", In("app"))
	m.WaitCaptured(victim, "true")
	p := scheduled(a, "pod", In("app"))
	for _, test := range []struct {
		name  string
		call  cniCall
		error string
	}{
		{"another pod's namespace", cniCall{netns: fmt.Sprintf("/proc/%d/ns/net", victim.PID())}, "another network namespace to be the pod's"},
		{"the node's namespace", cniCall{netns: a.HostNetns()}, "another network namespace to be the pod's"},
		{"another kind of namespace", cniCall{netns: fmt.Sprintf("/proc/%d/ns/mnt", p.PID())}, "not of the network"},
		{"a file", cniCall{netns: "/etc/passwd"}, "no namespace"},
		{"no file", cniCall{netns: "/gone"}, "no such file"},
		{"another pod's address", cniCall{addresses: []netip.Addr{victim.IPv4}}, "on none of its interfaces"},
	} {
		test.call.command = "ADD"
		got := p.cni(t, test.call)
		if got.code == 0 || !strings.Contains(got.error(), test.error) || !strings.Contains(got.error(), "pod app/pod not started") {
			t.Errorf("%s: %d %s", test.name, got.code, got.stdout)
		}
		if got.took > 3*time.Second {
			t.Errorf("%s: took %v", test.name, got.took)
		}
	}
	if got := p.cni(t, cniCall{command: "ADD"}); got.code != 0 {
		t.Errorf("the pod's own namespace: %s", got.stdout)
	}
	if got := p.cni(t, cniCall{command: "CHECK"}); got.code != 0 {
		t.Errorf("CHECK: %s", got.stdout)
	}
	if m.Captured(victim) != "true" {
		t.Error("the other pod suffered")
	}
}

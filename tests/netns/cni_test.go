// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/warren-mesh/warren/tests/testutil"
)

// The directories of a node's container runtime, below the node's own /run.
const (
	cniBin  = "/run/cni/bin"
	cniConf = "/run/cni/net.d"
)

// primaryList is the network that the plugin is chained to; its spaces are part of the test.
const primaryList = `{"name": "pods", "cniVersion":"1.0.0",
  "plugins": [ {"type":"ptp", "ipMasq" : false} ,
               {"type": "portmap"} ] }
`

// cniFlags have agents install the plugin.
func cniFlags(deadline time.Duration) []string {
	return []string{"--cni-bin-dir", cniBin, "--cni-conf-dir", cniConf, "--cni-deadline", deadline.String()}
}

// file is a path of the node as the test reaches it.
func (n *Node) file(path string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", n.sandbox.pid()), path)
}

// runtimeDirs makes what a container runtime has on the node.
func runtimeDirs(t *testing.T, n *Node) {
	t.Helper()
	for _, d := range []string{cniBin, cniConf} {
		if err := os.MkdirAll(n.file(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The network's own plugin, by which the agent knows the directory. Nobody runs it: the harness makes the network.
	if err := os.WriteFile(n.file(cniBin+"/ptp"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.file(cniConf+"/10-pods.conflist"), []byte(primaryList), 0o644); err != nil {
		t.Fatal(err)
	}
}

// chained waits until the plugin is installed on the node and returns its entry.
func chained(t *testing.T, n *Node) map[string]any {
	t.Helper()
	var list struct{ Plugins []map[string]any }
	testutil.Eventually(t, 10*time.Second, "warren-cni is chained on node "+n.Name, func() bool {
		b, err := os.ReadFile(n.file(cniConf + "/10-pods.conflist"))
		return err == nil && json.Unmarshal(b, &list) == nil && len(list.Plugins) == 3
	})
	return list.Plugins[2]
}

// scheduled makes a pod as it is when its sandbox was made: networked, and its object without address.
func scheduled(n *Node, name string, options ...PodOption) *Pod {
	return n.Pod(name, append(options, Object(func(o *corev1.Pod) {
		o.Status = corev1.PodStatus{Phase: corev1.PodPending}
	}))...)
}

// reported says in the object what the kubelet says once the pod runs.
func (p *Pod) reported() {
	full := p.object()
	p.Change(func(o *corev1.Pod) { o.Status = full.Status })
}

// cni is one call of the plugin, as the runtime makes it.
type cniCall struct {
	command   string
	netns     string // default: the pod's
	container string // default: made of the pod's uid
	addresses []netip.Addr
	stdin     []byte // default: the entry, with name, version and result of the plugin before
}

// answer is what came of a call.
type cniAnswer struct {
	code   int
	stdout string
	took   time.Duration
}

// error is the message of the plugin's error, "" without.
func (a cniAnswer) error() string {
	var e struct{ Msg string }
	if a.code == 0 || json.Unmarshal([]byte(a.stdout), &e) != nil {
		return ""
	}
	return e.Msg
}

// prevResult is what the plugin before says of the pod's network.
func prevResult(netns string, addresses []netip.Addr) string {
	var ips []string
	for _, a := range addresses {
		ips = append(ips, fmt.Sprintf(`{"interface":1,"address":"%s"}`, host(a)))
	}
	return fmt.Sprintf(`{"cniVersion":"1.0.0","interfaces":[{"name":"veth0","mac":"02:00:00:00:00:01"},{"name":"eth0","mac":"02:00:00:00:00:02","sandbox":%q}],`+
		`"ips":[%s],"routes":[{"dst":"0.0.0.0/0"}],"dns":{}}`, netns, strings.Join(ips, ","))
}

func (p *Pod) cni(t testing.TB, c cniCall) cniAnswer {
	t.Helper()
	if c.netns == "" {
		c.netns = fmt.Sprintf("/proc/%d/ns/net", p.PID())
	}
	if c.container == "" {
		c.container = "sandbox-" + p.UID
	}
	if c.addresses == nil {
		c.addresses = []netip.Addr{p.IPv4, p.IPv6}
	}
	if c.stdin == nil {
		b, err := os.ReadFile(p.Node.file(cniConf + "/10-pods.conflist"))
		if err != nil {
			t.Fatal(err)
		}
		var list struct{ Plugins []map[string]any }
		if err := json.Unmarshal(b, &list); err != nil {
			t.Fatal(err)
		}
		entry := list.Plugins[len(list.Plugins)-1]
		entry["name"], entry["cniVersion"] = "pods", "1.0.0"
		entry["prevResult"] = json.RawMessage(prevResult(c.netns, c.addresses))
		if c.stdin, err = json.Marshal(entry); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	cmd := exec.Command(cniBin + "/warren-cni")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(c.stdin), &out, &out
	cmd.Env = []string{
		"CNI_COMMAND=" + c.command, "CNI_CONTAINERID=" + c.container, "CNI_NETNS=" + c.netns, "CNI_IFNAME=eth0", "CNI_PATH=" + cniBin,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=" + p.Namespace + ";K8S_POD_NAME=" + p.Name +
			";K8S_POD_INFRA_CONTAINER_ID=" + c.container + ";K8S_POD_UID=" + p.UID,
	}
	started := time.Now()
	if err := p.Node.here().start(cmd); err != nil {
		t.Fatalf("start warren-cni: %v", err)
	}
	_ = cmd.Wait()
	return cniAnswer{code: cmd.ProcessState.ExitCode(), stdout: out.String(), took: time.Since(started)}
}

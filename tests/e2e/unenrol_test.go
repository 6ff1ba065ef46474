// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"
	"time"
)

// TestEnrolAndUnenrol takes running pods into the mesh, and out of it: connections from before go on both times, new ones
// go the new way at once, and in the end nothing of the mesh is left at the pods.
func TestEnrolAndUnenrol(t *testing.T) {
	m := Shared(t)
	nodes := m.Nodes()
	ns := m.Namespace(t, "unenrol")
	ns.Service(Service{Name: "far"})
	pods := ns.Deploy(App{Name: "client", Node: nodes[0]}, App{Name: "near", Node: nodes[0]}, App{Name: "far", Node: nodes[1]})
	client, far := pods[0], pods[2]
	client.Reaches("tcp4", "far:80")
	before := map[*Pod]Traces{}
	for _, p := range pods {
		before[p] = p.Traces()
	}
	direct := client.Load("-every", "50ms", "-line", "established before", "hold://far:80")
	isPlain := func(marker string) bool {
		wire := m.Wire(t)
		if a := client.Talk("tcp4", "far:80", marker); !a.OK() || a.Pod != far.Name {
			t.Errorf("%s: %+v", marker, a)
		}
		wire.Stop()
		return len(wire.Contains([]byte(marker))) > 0
	}
	if !isPlain("plain-before-" + ns.Name) {
		t.Error("before: the marker is not on the wire")
	}

	ns.Enrol(true)
	for _, p := range pods {
		p.WaitCaptured("true")
	}
	for _, p := range pods {
		found := strings.Join(p.Traces().Beyond(before[p]), "\n")
		for _, want := range []string{"annotation warren.dev/captured", "ip_local_reserved_ports", "at sk_lookup", "at tcx ingress", "listener tcp", "file /sys/fs/bpf", "file /run/warren/broker"} {
			if !strings.Contains(found, want) {
				t.Errorf("captured %s: no trace of %q, so that this test can't see it go; found:\n%s", p, want, found)
			}
		}
	}
	// The client's node may hear of the server's capture a little later; until then the connection is as before.
	Eventually(t, told, "a new connection goes through the tunnel", func() string {
		if isPlain("tunnelled-" + ns.Name) {
			return "the marker is on the wire"
		}
		return ""
	})
	tunnelled := client.Load("-every", "50ms", "hold://far:80")
	Eventually(t, told, "the tunnelled connection is there", func() string {
		for _, h := range far.Heard() {
			if h.Line == "load 0" {
				return ""
			}
		}
		return "not yet"
	})

	ns.Enrol(false)
	for _, p := range pods {
		p.WaitCaptured("")
	}
	if !isPlain("plain-after-" + ns.Name) {
		t.Error("after: the marker is not on the wire")
	}
	time.Sleep(200 * time.Millisecond) // some more words on both connections
	for name, l := range map[string]*Load{"established before capture": direct, "tunnelled": tunnelled} {
		if a := l.Stop(); a.Failed > 0 || a.OK < 3 {
			t.Errorf("the connection %s: %+v", name, a)
		}
	}
	for _, p := range pods {
		Eventually(t, 40*time.Second, "nothing is left at "+p.String(), func() string {
			now := p.Traces()
			return strings.Join(append(now.Beyond(before[p]), before[p].Beyond(now)...), "\n")
		})
	}
}

// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	wire "github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/tests/testutil"
	"github.com/warren-mesh/warren/ztunnel/inpod"
)

func count(t testing.TB, p *process, what string) int {
	t.Helper()
	es, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", p.Process.Pid, what))
	must(t, err)
	return len(es)
}

// TestCaptureCyclesLeaveNothing captures and un-enrols a pod again and again: no descriptor and no thread stays.
func TestCaptureCyclesLeaveNothing(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	z, _ := w.startZtunnel("a")
	b := w.startBroker()
	a := w.startAgent()
	a.Sync()
	go func() {
		for e := range z.Events() {
			if e.Draining {
				z.Drained(e.Pod)
			}
		}
	}()
	cycle := func() {
		a.Update(p.capture())
		waitState(t, a, "captured", isCaptured)
		a.Delete(p.uid)
		waitState(t, a, "released", func(s wire.State) bool { return s.Reason == "not wanted" })
	}
	cycle()
	time.Sleep(2100 * time.Millisecond) // a broker just started drains for at least 2 s
	cycle()
	fds, threads := count(t, b, "fd"), count(t, b, "task")
	for range 10 {
		cycle()
	}
	testutil.Eventually(t, 5*time.Second, "descriptors or threads stay", func() bool {
		return count(t, b, "fd") <= fds && count(t, b, "task") <= threads+2 // idle threads are the scheduler's
	})
}

func TestReenrolledWhileDraining(t *testing.T) {
	w, p, _, a, z, ls := captureOne(t)
	a.Delete(p.uid)
	for e := range z.Events() {
		if e.Draining {
			break
		}
	}
	a.Update(p.capture())
	waitState(t, a, "captured again", isCaptured)
	got := map[inpod.Kind]*inpod.Listener{inpod.HBONE: ls[inpod.HBONE]} // it was kept, so it is no news
	for len(got) < 3 {
		if e := next(t, z.Events(), "listener"); e.Listener != nil {
			got[e.Kind] = e.Listener
		}
	}
	for _, l := range got {
		go accepting(l)
	}
	for port, kind := range map[uint16]string{8080: "plaintext", 15008: "hbone"} {
		if answer := ask(t, w, netip.AddrPortFrom(p.v4, port)); !strings.HasPrefix(answer, kind) {
			t.Errorf("port %d: answer %q", port, answer)
		}
	}
	to := netip.AddrPortFrom(p.hostV6, 7777)
	if answer, err := p.appDials(to); err != nil || answer != "outbound "+to.String() {
		t.Errorf("application: %q, %v", answer, err)
	}
}

// TestNamespaceHandedOver: the agent may pass the namespace of a pod that has no process yet.
func TestNamespaceHandedOver(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	z, _ := w.startZtunnel("a")
	w.startBroker()
	a := w.startAgent()
	c := p.capture()
	c.UID = "99999999-0000-0000-0000-000000000000" // no cgroup has this name
	a.Update(c)
	s := waitState(t, a, "not found", func(s wire.State) bool { return !s.Captured })
	if !strings.Contains(s.Reason, "find cgroup") {
		t.Errorf("reason %q", s.Reason)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.pid))
	must(t, err)
	a.UpdateNetns(c, f)
	listeners(t, z, c.UID)
	waitState(t, a, "captured", isCaptured)

	// What is not the pod's namespace is refused: the host's, another pod's, any other file.
	other := w.pod()
	for path, want := range map[string]string{
		w.cfg.HostNetns:                       "host's network namespace",
		fmt.Sprintf("/proc/%d/ns/net", p.pid): "on none of its interfaces",
		fmt.Sprintf("/proc/%d/ns/uts", p.pid): "setns",
		"/dev/null":                           "setns",
	} {
		c := other.capture()
		c.UID = fmt.Sprintf("88888888-%d", len(path)+len(want))
		f, err := os.Open(path)
		must(t, err)
		a.UpdateNetns(c, f)
		s := waitState(t, a, "refused", func(s wire.State) bool { return s.UID == c.UID })
		if s.Captured || !strings.Contains(s.Reason, want) {
			t.Errorf("%s: %+v, want %q", path, s, want)
		}
	}
}

func TestPodThatCannotBeCapturedSaysWhy(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	w.startBroker()
	a := w.startAgent()
	taken := listenIn(t, p.ns, netip.AddrPortFrom(p.v4, 15008))
	a.Update(p.capture())
	s := waitState(t, a, "failed", func(s wire.State) bool { return !s.Captured })
	if !strings.Contains(s.Reason, "15008") || !strings.Contains(s.Reason, "address already in use") {
		t.Errorf("reason %q", s.Reason)
	}
	taken.Close()
	waitState(t, a, "captured", isCaptured)
}

// TestPodThatEndsBeforeItsCapture: what was opened for a pod that could not be captured yet is let go as well.
func TestPodThatEndsBeforeItsCapture(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	w.startBroker()
	a := w.startAgent()
	taken := listenIn(t, p.ns, netip.AddrPortFrom(p.v4, 15008))
	a.Update(p.capture())
	waitState(t, a, "failed", func(s wire.State) bool { return !s.Captured })
	must(t, taken.Close())
	p.ns.close()
	must(t, syscall.Kill(p.pid, syscall.SIGKILL))
	testutil.Eventually(t, 5*time.Second, "the namespace lives on", func() bool { return !w.linkExists(p.hostEnd) })
}

// TestPodGetsAnotherInterface: the guard goes where the pod's packets go, and never where they went.
func TestPodGetsAnotherInterface(t *testing.T) {
	w, p, _, a, _, _ := captureOne(t)
	must(t, w.host.do(func() error {
		l, err := netlink.LinkByName(p.hostEnd)
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}))
	waitState(t, a, "not captured", func(s wire.State) bool { return !s.Captured })
	p.plug()
	waitState(t, a, "captured", isCaptured)
	err := p.ns.do(func() error {
		_, err := net.DialTimeout("tcp", netip.AddrPortFrom(p.hostV4, 9000).String(), 300*time.Millisecond)
		return err
	})
	if !os.IsTimeout(err) {
		t.Errorf("a connection past the hooks: %v, want no answer: the guard drops it", err)
	}
}

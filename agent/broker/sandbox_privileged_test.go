// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/tests/testutil"
)

// emptySandbox is a pod as the CNI plugin sees it: a cgroup without a process, and a network without one.
func (w *world) emptySandbox() (*testPod, *os.File) {
	w.pods++
	p := w.podNumbered(w.pods)
	must(w.t, os.MkdirAll(filepath.Join(p.cgroup, "sandbox"), 0o755))
	return p, p.network()
}

// network makes the pod a new network namespace, which no process of its cgroup is in.
func (p *testPod) network() *os.File {
	p.pid = p.w.hold(nil)
	p.ns = openTestNamespace(p.w.t, p.pid)
	must(p.w.t, p.ns.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}))
	p.plug()
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.pid))
	must(p.w.t, err)
	return f
}

func inode(t *testing.T, f *os.File) uint64 {
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	return st.Ino
}

// occupy starts the first process of the sandbox.
func (p *testPod) occupy() *exec.Cmd {
	g, err := os.Open(filepath.Join(p.cgroup, "sandbox"))
	must(p.w.t, err)
	defer g.Close()
	c := exec.Command("sleep", "120")
	c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(g.Fd())}
	must(p.w.t, p.ns.do(c.Start))
	p.w.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return c
}

// TestCaptureBeforeTheFirstProcess: the kubelet makes the pod's cgroup, the plugin the network, and the sandbox's
// process comes last, maybe much later. Until then the capture holds; from then on the process's end is the pod's.
func TestCaptureBeforeTheFirstProcess(t *testing.T) {
	w := newWorld(t)
	z, _ := w.startZtunnel("a")
	w.startBroker()
	a := w.startAgent()
	p, netns := w.emptySandbox()
	want := inode(t, netns)
	a.UpdateNetns(p.capture(), netns)
	a.Sync()
	for _, l := range listeners(t, z, p.uid) {
		go accepting(l)
	}
	if s := waitState(t, a, "captured", isCaptured); s.Netns != want {
		t.Errorf("captured namespace %d, handed over %d", s.Netns, want)
	}
	quiet := time.NewTimer(4 * lookEvery)
	defer quiet.Stop()
	select {
	case s := <-a.States():
		t.Fatalf("before the first process: %+v", s)
	case <-quiet.C: // several looks have found nobody
	}
	first := p.occupy()
	to := netip.AddrPortFrom(p.hostV4, 7777)
	if got, err := p.appDials(to); err != nil || got != "outbound "+to.String() {
		t.Errorf("application dialled %v: %q, %v", to, got, err)
	}
	time.Sleep(2 * lookEvery) // a look has to see the process, and nothing tells of that
	_ = first.Process.Kill()
	_ = first.Wait()
	waitState(t, a, "gone", func(s wire.State) bool { return s.Gone })
}

// TestSandboxMadeAnew: the pod stays, its namespace is another one. A namespace that is not the pod's changes nothing.
func TestSandboxMadeAnew(t *testing.T) {
	w := newWorld(t)
	z, _ := w.startZtunnel("a")
	w.startBroker()
	a := w.startAgent()
	p, netns := w.emptySandbox()
	a.UpdateNetns(p.capture(), netns)
	a.Sync()
	listeners(t, z, p.uid)
	first := waitState(t, a, "captured", isCaptured)

	_, foreign := w.emptySandbox()
	a.UpdateNetns(p.capture(), foreign)
	if s := waitState(t, a, "told again", isCaptured); s.Netns != first.Netns {
		t.Errorf("moved to a namespace that has not the pod's address: %+v", s)
	}

	must(t, w.host.do(func() error { // the network plugin ends the old network
		l, err := netlink.LinkByName(p.hostEnd)
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}))
	anew := p.network()
	want := inode(t, anew)
	a.UpdateNetns(p.capture(), anew)
	waitState(t, a, "captured in the new namespace", func(s wire.State) bool { return s.Captured && s.Netns == want })
	testutil.Eventually(t, 5*time.Second, "one pod is attached", func() bool {
		es, _ := os.ReadDir(filepath.Join(w.cfg.BPFFS, "warren", "v1", "pods"))
		return len(es) == 1
	})
}

// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/tests/testutil"
)

func (d *Datapath) linkIDs(t *testing.T) (ids []link.ID) {
	t.Helper()
	all := []link.Link{}
	for _, l := range d.links {
		all = append(all, l)
	}
	for _, a := range d.pods {
		all = append(all, a.lookup, a.guard)
	}
	for _, l := range all {
		if l != nil {
			ids = append(ids, must1(l.Info())(t).ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// TestRestart: without its process the datapath stays, and fails closed; the next one takes it over in place.
func TestRestart(t *testing.T) {
	n := newNode(t)
	p, peer := n.newPod().capture(), n.newPod()
	app := p.listen("[::]:80")
	far := peer.listen("[::]:80")
	ids := n.d.linkIDs(t)
	must(t, n.d.Close())

	must1(p.dial(at(peer.ip4, 80)))(t)
	accept(t, p.out)
	p.out.Close()
	p.plain.Close()
	if _, err := p.dial(at(peer.ip4, 80)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("outbound with nobody there: %v, want ECONNREFUSED", err)
	}
	if _, err := peer.dial(at(p.ip4, 80)); err == nil {
		t.Error("inbound with nobody there went through")
	}
	if _, err := p.dial(at(p.ip4, 80)); err != nil {
		t.Errorf("the pod's own address: %v", err)
	}
	accept(t, app)

	n.d = n.load()
	if got := n.d.linkIDs(t); !slices.Equal(got, ids) {
		t.Errorf("links are %v, were %v: not updated in place", got, ids)
	}
	if got, want := must1(n.d.Pods())(t), []Pod{p.spec()}; !slices.Equal(got, want) {
		t.Errorf("pods are %v, want %v", got, want)
	}
	p.out, p.plain = p.listen("[::]:15001"), p.listen("[::]:15006")
	must(t, n.d.AttachPod(p.spec(), int(p.ns), p.listeners()))
	must(t, n.d.Enable(p.spec()))
	p.guard()
	if got := n.d.linkIDs(t); !slices.Equal(got, ids) {
		t.Errorf("links are %v, were %v: a pod's were not updated in place", got, ids)
	}
	if drift := n.d.Verify([]uint64{p.cookie}); drift != nil {
		t.Errorf("drift after taking over: %v", drift)
	}
	must1(p.dial(at(peer.ip4, 80)))(t)
	accept(t, p.out)
	must1(peer.dial(at(p.ip4, 80)))(t)
	accept(t, p.plain)
	noConnection(t, far)
	if n.stat(reason.NoListener) == 0 {
		t.Error("counters did not survive")
	}
}

// TestUpdatesUnderTraffic takes the datapath over again and again while a pod connects.
func TestUpdatesUnderTraffic(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	go func() {
		for {
			c, err := p.out.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	var stop atomic.Bool
	done := make(chan int)
	go func() {
		made := 0
		for ; !stop.Load(); made++ {
			fd := p.quickSocket(unix.AF_INET)
			if err := unix.Connect(fd, sockaddr(unix.AF_INET, outside4)); err != nil {
				t.Errorf("connection %d: %v", made, err)
			}
			unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			unix.Close(fd)
		}
		done <- made
	}()
	for range 10 {
		must(t, n.d.Close())
		n.d = n.load()
		must(t, n.d.AttachPod(p.spec(), int(p.ns), p.listeners()))
		must(t, n.d.Enable(p.spec()))
		p.guard()
	}
	stop.Store(true)
	if made := <-done; made < 100 {
		t.Errorf("only %d connections were made meanwhile", made)
	}
}

func TestRemoveLeavesNoTrace(t *testing.T) {
	n := newNode(t)
	p, peer := n.newPod().capture(), n.newPod()
	far := peer.listen("[::]:80")
	ids := n.d.linkIDs(t)
	other := n.load() // somebody still holds descriptors
	defer other.Close()
	must(t, n.d.Remove())
	if _, err := os.Stat(pinRoot(n.bpffs)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("pins are left: %v", err)
	}
	for _, h := range hooks {
		if h.probe {
			continue
		}
		f := must1(os.Open(n.cgroup))(t)
		res := must1(link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: h.attach}))(t)
		f.Close()
		if len(res.Programs) > 0 {
			t.Errorf("%s is still attached", h.name)
		}
	}
	must1(p.dial(at(peer.ip4, 80)))(t)
	accept(t, far)
	other.Close()
	for _, id := range ids {
		testutil.Eventually(t, 2*time.Second, "a link is left", func() bool {
			l, err := link.NewFromID(id)
			if err == nil {
				l.Close()
			}
			return errors.Is(err, fs.ErrNotExist)
		})
	}
	n.d = n.load()
}

// TestUnfinishedPins: what a process left half-made is swept away.
func TestUnfinishedPins(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	for _, dir := range []string{pinDir(n.bpffs) + unfinished, n.d.podDir(4711) + unfinished} {
		must(t, os.MkdirAll(filepath.Join(dir, dirMaps), 0o700))
	}
	must(t, n.d.Close())
	n.d = n.load()
	for _, dir := range []string{pinDir(n.bpffs) + unfinished, n.d.podDir(4711) + unfinished} {
		if pinned(dir) {
			t.Errorf("%s is still there", dir)
		}
	}
	if len(n.d.pods) != 1 || n.d.pods[p.cookie] == nil {
		t.Errorf("adopted %v", n.d.pods)
	}
}

// TestAnotherCgroup: the node's pods cgroup was found elsewhere after a restart.
func TestAnotherCgroup(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	must(t, n.d.Close())
	n.cgroup = newCgroup(t)
	n.d = n.load()
	if drift := n.d.Verify([]uint64{p.cookie}); drift != nil {
		t.Errorf("drift: %v", drift)
	}
	must1(p.dial(outside4))(t)
	accept(t, p.out)
}

func TestConfigErrors(t *testing.T) {
	n := newNode(t)
	for _, c := range []Config{
		{BPFFS: t.TempDir(), Cgroup: n.cgroup},
		{BPFFS: n.bpffs, Cgroup: t.TempDir()},
		{BPFFS: n.bpffs, Cgroup: n.cgroup, ProbeCgroup: "/nowhere"},
		{},
	} {
		if d, err := Load(c); err == nil {
			d.Close()
			t.Errorf("%+v was accepted", c)
		}
	}
	if err := n.d.Enable(Pod{Cookie: 4711}); !errors.Is(err, ErrUnknownPod) {
		t.Errorf("capture an unknown pod: %v", err)
	}
}

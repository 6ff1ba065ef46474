// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestDrift takes the datapath apart piece by piece: each loss is noticed by its name, mended, and traffic captured
// again.
func TestDrift(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	a := n.d.pods[p.cookie]
	rm := func(parts ...string) func() error {
		return func() error { return os.Remove(filepath.Join(append([]string{n.d.dir}, parts...)...)) }
	}
	tests := []struct {
		name string
		harm func() error
		part Part
		what string
	}{
		{"pod's entry", func() error { return n.d.maps[mapPods].Delete(p.cookie) }, PartPod, ""},
		{"pod's inflight map", func() error { return n.d.maps[mapOrigDst].Delete(p.cookie) }, PartPod, ""},
		{"lookup detached", func() error { return a.lookup.Detach() }, PartLookup, ""},
		{"lookup's pin", rm(dirPods, filepath.Base(a.dir), pinLookup), PartLookup, ""},
		{"guard detached", func() error { return a.guard.Detach() }, PartGuard, ""},
		{"guard's pin", rm(dirPods, filepath.Base(a.dir), pinGuard), PartGuard, ""},
		{"listener", func() error { return a.listeners.Delete(uint32(ListenerHBONE)) }, PartListener, "hbone"},
		{"map's pin", rm(dirMaps, mapExempts), PartMap, mapExempts},
	}
	for _, h := range hooks {
		if h.probe {
			continue
		}
		tests = append(tests, struct {
			name string
			harm func() error
			part Part
			what string
		}{h.name + " detached", func() error { return n.d.links[h.name].Detach() }, PartHook, h.name})
	}
	tests = append(tests, tests[0])
	tests[len(tests)-1].name = "hook's pin"
	tests[len(tests)-1].harm, tests[len(tests)-1].part, tests[len(tests)-1].what = rm(dirLinks, "connect4"), PartHook, "connect4"

	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			must(t, tt.harm())
			drift := n.d.Verify([]uint64{p.cookie})
			if len(drift) != 1 || drift[0].Part != tt.part || drift[0].Name != tt.what {
				t.Fatalf("drift is %v, want one of %s %s", drift, tt.part, tt.what)
			}
			n.host.do(t, func() error {
				err := n.d.Repair(drift[0])
				if !errors.Is(err, ErrNeedsCaller) {
					return err
				}
				return errors.Join(n.d.AttachPod(p.spec(), int(p.ns), p.listeners()), n.d.Enable(p.spec()))
			})
			if drift := n.d.Verify([]uint64{p.cookie}); drift != nil {
				t.Fatalf("still drifted: %v", drift)
			}
			must1(p.dial(outside4))(t)
			accept(t, p.out)
		})
	}
}

func TestVerifyUnknownAndGone(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	if drift := n.d.Verify([]uint64{p.cookie, 4711}); len(drift) != 1 || drift[0].Cookie != 4711 {
		t.Errorf("drift is %v, want one of pod 4711", drift)
	}
	// The runtime takes the veth away: guard and pod go with it.
	h := n.host.netlink(t)
	must(t, h.LinkDel(must1(h.LinkByName("veth1"))(t).(*netlink.Veth)))
	drift := n.d.Verify([]uint64{p.cookie})
	if len(drift) != 1 || drift[0].Part != PartGuard {
		t.Errorf("drift is %v, want the guard's", drift)
	}
	must(t, n.d.DetachPod(p.cookie))
}

// TestWholePinDirectoryGone: somebody tidied up /sys/fs/bpf.
func TestWholePinDirectoryGone(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	must(t, os.RemoveAll(pinRoot(n.bpffs)))
	drift := n.d.Verify([]uint64{p.cookie})
	if len(drift) == 0 {
		t.Fatal("nothing noticed")
	}
	n.host.do(t, func() error {
		var err error
		for _, d := range drift {
			err = errors.Join(err, n.d.Repair(d))
		}
		return err
	})
	if drift := n.d.Verify([]uint64{p.cookie}); drift != nil {
		t.Errorf("still drifted: %v", drift)
	}
	must(t, n.d.Close())
	n.d = n.load()
	if drift := n.d.Verify([]uint64{p.cookie}); drift != nil {
		t.Errorf("drift after restart: %v", drift)
	}
}

// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// Part names what of the Datapath has drifted.
type Part string

// The parts Verify looks at.
const (
	PartHook     Part = "hook"     // a program at the cgroup
	PartLookup   Part = "lookup"   // a pod's sk_lookup program
	PartListener Part = "listener" // a slot of a pod's listeners
	PartGuard    Part = "guard"    // the guard at a pod's veth
	PartPod      Part = "pod"      // a pod's entries in the shared maps
	PartMap      Part = "map"      // the pin of a shared map
)

// Drift is one difference between what is in the kernel and what should be.
type Drift struct {
	Part   Part
	Name   string // the hook's, map's or listener's name; empty elsewhere
	Cookie uint64 // the pod's; 0 for what belongs to the node
	Err    error  // what was found
}

func (d Drift) String() string {
	s := string(d.Part)
	if d.Name != "" {
		s += " " + d.Name
	}
	if d.Cookie != 0 {
		s += fmt.Sprintf(" of pod %d", d.Cookie)
	}
	return fmt.Sprintf("%s: %v", s, d.Err)
}

// ErrNeedsCaller says that a drift can only be repaired by the call that made the thing: AttachPod, AttachGuard,
// Enable or SetListener.
var ErrNeedsCaller = errors.New("repair needs the caller")

// Verify compares what is attached with what should be: all hooks, and for each wanted pod its program, listeners,
// guard and entries. Nil means all is as it should be. What is attached beyond that is not its concern.
func (d *Datapath) Verify(wantPods []uint64) []Drift {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Drift
	note := func(part Part, name string, cookie uint64, err error) {
		if err != nil {
			out = append(out, Drift{Part: part, Name: name, Cookie: cookie, Err: err})
		}
	}
	for name := range d.maps {
		if !pinned(filepath.Join(d.dir, dirMaps, name)) {
			note(PartMap, name, 0, errPinGone)
		}
	}
	for _, h := range hooks {
		note(PartHook, h.name, 0, d.verifyHook(h))
	}
	for _, cookie := range wantPods {
		a := d.pods[cookie]
		if a == nil {
			note(PartLookup, "", cookie, ErrUnknownPod)
			continue
		}
		note(PartLookup, "", cookie, a.verifyLookup())
		note(PartGuard, "", cookie, a.verifyGuard())
		for kind, name := range []string{"outbound", "hbone", "plaintext"} {
			note(PartListener, name, cookie, a.verifyListener(kind))
		}
		note(PartPod, "", cookie, d.verifyPod(cookie))
	}
	return out
}

func (a *attachment) verifyListener(kind int) error {
	var cookie uint64
	if err := a.listeners.Lookup(uint32(kind), &cookie); errors.Is(err, ebpf.ErrKeyNotExist) {
		return errors.New("nobody listens")
	} else if err != nil {
		return err
	}
	return nil
}

func (d *Datapath) verifyPod(cookie uint64) error {
	var v sockopsPod
	if err := d.maps[mapPods].Lookup(cookie, &v); err != nil {
		return fmt.Errorf("look up %s: %w", mapPods, err)
	}
	for _, name := range []string{mapOrigDst, mapClientAddr} {
		var id uint32
		if err := d.maps[name].Lookup(cookie, &id); err != nil {
			return fmt.Errorf("look up %s: %w", name, err)
		}
	}
	return nil
}

// Repair mends a drift. For a guard the calling thread must be in the host's network namespace. What only the caller
// can bring (a listener, a pod's addresses, the netns of an adopted pod) gives ErrNeedsCaller.
func (d *Datapath) Repair(drift Drift) error {
	var err error
	switch drift.Part {
	case PartHook:
		err = d.repairHook(drift.Name)
	case PartMap:
		err = d.repairMap(drift.Name)
	case PartLookup:
		err = d.repairLookup(drift.Cookie)
	case PartGuard:
		err = d.repairGuard(drift.Cookie)
	default:
		err = ErrNeedsCaller
	}
	if err != nil {
		return fmt.Errorf("repair %v: %w", drift, err)
	}
	d.log.Warn("repaired kernel programs", "drift", drift.String())
	return nil
}

func (d *Datapath) repairHook(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, h := range hooks {
		if h.name != name {
			continue
		}
		if err := os.MkdirAll(filepath.Join(d.dir, dirLinks), 0o700); err != nil {
			return err
		}
		old := d.links[name]
		if old != nil && d.verifyHook(h) == errPinGone {
			return pinAgain(old, d.linkPin(d.dir, h))
		}
		if err := drop(old, d.linkPin(d.dir, h)); err != nil {
			return err
		}
		delete(d.links, name)
		l, err := d.attachHook(h, d.dir, d.progs[h.program])
		if err != nil {
			return err
		}
		d.links[name] = l
		return nil
	}
	return fmt.Errorf("no hook %q", name)
}

func (d *Datapath) repairMap(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.maps[name]
	if m == nil {
		return fmt.Errorf("no map %q", name)
	}
	if err := os.MkdirAll(filepath.Join(d.dir, dirMaps), 0o700); err != nil {
		return err
	}
	return pinAgain(m, filepath.Join(d.dir, dirMaps, name))
}

func (d *Datapath) repairLookup(cookie uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.pods[cookie]
	if a == nil || a.netns < 0 {
		return ErrNeedsCaller
	}
	if err := a.repairPins(); err != nil {
		return err
	}
	return d.fillPod(cookie, a, Listeners{Outbound: -1, HBONE: -1, Plaintext: -1})
}

func (d *Datapath) repairGuard(cookie uint64) error {
	d.mu.Lock()
	a := d.pods[cookie]
	var ifindex int
	var err error
	if a != nil {
		ifindex = a.ifindex
		err = a.repairPins()
	}
	d.mu.Unlock()
	if err != nil {
		return err
	}
	if a == nil || ifindex == 0 {
		return ErrNeedsCaller
	}
	return d.AttachGuard(cookie, ifindex)
}

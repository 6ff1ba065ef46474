// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

const (
	pinLookup = "lookup"
	pinGuard  = "guard"
)

// attachment is what stands in the kernel for one pod, beside its entries in the shared maps.
type attachment struct {
	dir       string
	listeners *ebpf.Map
	lookup    link.Link
	guard     link.Link // nil until AttachGuard
	netns     int       // a descriptor of the pod's netns for repairs, -1 after adoption
	ifindex   int       // of the host's side of the veth, 0 until known
}

// openAttachment adopts what an earlier process pinned. Parts may be missing; Verify tells.
func openAttachment(dir string, spec *ebpf.MapSpec) (_ *attachment, err error) {
	a := &attachment{dir: dir, netns: -1}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if a.listeners, err = openMap(filepath.Join(dir, mapListeners), spec); err != nil {
		return nil, err
	}
	if a.lookup, err = openLink(filepath.Join(dir, pinLookup)); err != nil {
		return nil, err
	}
	if a.guard, err = openLink(filepath.Join(dir, pinGuard)); err != nil {
		return nil, err
	}
	if a.guard != nil {
		if info, err := a.guard.Info(); err == nil && info.TCX() != nil {
			a.ifindex = int(info.TCX().Ifindex)
		}
	}
	return a, nil
}

// keepNetns remembers the pod's netns for repairs.
func (a *attachment) keepNetns(fd int) error {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return fmt.Errorf("keep netns: %w", err)
	}
	if a.netns >= 0 {
		unix.Close(a.netns)
	}
	a.netns = dup
	return nil
}

// setLookup makes prog decide about connections to the pod: in place, or anew if its link is gone.
func (a *attachment) setLookup(prog *ebpf.Program) error {
	pin := filepath.Join(a.dir, pinLookup)
	if a.lookup != nil {
		if a.verifyLookup() == nil {
			if err := a.lookup.Update(prog); err != nil {
				return fmt.Errorf("update sk_lookup: %w", err)
			}
			return nil
		}
		err := drop(a.lookup, pin)
		a.lookup = nil
		if err != nil {
			return fmt.Errorf("end old sk_lookup link: %w", err)
		}
	}
	l, err := link.AttachNetNs(a.netns, prog)
	if err != nil {
		return fmt.Errorf("attach sk_lookup: %w", err)
	}
	if err := l.Pin(pin); err != nil {
		l.Close()
		return fmt.Errorf("pin sk_lookup link: %w", err)
	}
	a.lookup = l
	return nil
}

// setGuard makes prog guard the interface: in place, or anew if it is another one.
func (a *attachment) setGuard(prog *ebpf.Program, ifindex int) error {
	pin := filepath.Join(a.dir, pinGuard)
	if a.guard != nil {
		if a.verifyGuard() == nil && a.ifindex == ifindex {
			if err := a.guard.Update(prog); err != nil {
				return fmt.Errorf("update guard: %w", err)
			}
			return nil
		}
		err := drop(a.guard, pin)
		a.guard = nil
		if err != nil {
			return fmt.Errorf("end old guard: %w", err)
		}
	}
	// First in the chain: a program before it could let frames pass without it.
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: ifindex, Program: prog, Attach: ebpf.AttachTCXIngress, Anchor: link.Head(),
	})
	if err != nil {
		return fmt.Errorf("attach guard to interface %d: %w", ifindex, err)
	}
	if err := l.Pin(pin); err != nil {
		l.Close()
		return fmt.Errorf("pin guard: %w", err)
	}
	a.guard, a.ifindex = l, ifindex
	return nil
}

func (a *attachment) verifyLookup() error {
	if a.lookup == nil {
		return errors.New("not attached")
	}
	info, err := a.lookup.Info()
	if err != nil {
		return err
	}
	if ns := info.NetNs(); ns == nil || ns.NetnsInode == 0 {
		return errors.New("detached")
	}
	if !pinned(filepath.Join(a.dir, pinLookup)) {
		return errPinGone
	}
	return nil
}

func (a *attachment) verifyGuard() error {
	if a.guard == nil {
		return errors.New("not attached")
	}
	info, err := a.guard.Info()
	if err != nil {
		return err
	}
	if tcx := info.TCX(); tcx == nil || tcx.Ifindex == 0 {
		return errors.New("detached")
	}
	if !pinned(filepath.Join(a.dir, pinGuard)) {
		return errPinGone
	}
	return nil
}

// repairPins pins again what is attached but has lost its pin.
func (a *attachment) repairPins() error {
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return err
	}
	if pin := filepath.Join(a.dir, mapListeners); !pinned(pin) {
		if err := pinAgain(a.listeners, pin); err != nil {
			return err
		}
	}
	if a.lookup != nil && a.verifyLookup() == errPinGone {
		if err := pinAgain(a.lookup, filepath.Join(a.dir, pinLookup)); err != nil {
			return err
		}
	}
	if a.guard != nil && a.verifyGuard() == errPinGone {
		return pinAgain(a.guard, filepath.Join(a.dir, pinGuard))
	}
	return nil
}

// remove ends everything, guard first: when the pod's traffic goes direct, nothing may stop it.
func (a *attachment) remove() error {
	err := errors.Join(
		drop(a.guard, filepath.Join(a.dir, pinGuard)),
		drop(a.lookup, filepath.Join(a.dir, pinLookup)),
	)
	a.guard, a.lookup = nil, nil
	return errors.Join(err, a.close(), os.RemoveAll(a.dir))
}

// close lets go of descriptors; what is pinned stays.
func (a *attachment) close() error {
	var errs []error
	if a.guard != nil {
		errs = append(errs, a.guard.Close())
	}
	if a.lookup != nil {
		errs = append(errs, a.lookup.Close())
	}
	if a.netns >= 0 {
		errs = append(errs, unix.Close(a.netns))
		a.netns = -1
	}
	return errors.Join(append(errs, a.listeners.Close())...)
}

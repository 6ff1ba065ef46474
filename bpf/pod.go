// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Flags of a pod's entry, enum pod_flags in include/types.h.
const (
	flagCaptured  = 1
	flagKeepHBONE = 2
	flagGrace     = 4
	flagExcept    = 8
)

// ErrUnknownPod is wrapped where a method needs AttachPod first.
var ErrUnknownPod = errors.New("pod is not attached")

// Pod is what the programs know about a pod.
type Pod struct {
	// Cookie of the pod's network namespace (SO_NETNS_COOKIE).
	Cookie uint64
	// IPv4 and IPv6 are the pod's own addresses; the zero Addr where it has none.
	IPv4, IPv6 netip.Addr
	// Running pods are captured with connections under way: the guard lets their SYNs pass for one
	// retransmission time (1.1 s) after Enable.
	Running bool
}

// MaxExcept is how many exceptions of its own a pod may have.
const MaxExcept = 16

// Listener numbers the slots of Listeners, for SetListener.
const (
	ListenerOutbound  = 0
	ListenerHBONE     = 1
	ListenerPlaintext = 2
)

// Listeners are descriptors of ztunnel's listening sockets in the pod; one below 0 leaves its slot as it is. They
// must not be MPTCP sockets. The kernel keeps them as long as they listen; the caller keeps its descriptors.
type Listeners struct{ Outbound, HBONE, Plaintext int }

// AttachPod puts the pod's sk_lookup program and listeners in place; it steers nothing before Enable. Repeated, it
// updates program and listeners in place. netnsFD and listeners stay the caller's. For repairs the Datapath keeps a
// descriptor of its own on the namespace, which lives on until DetachPod or Close.
func (d *Datapath) AttachPod(p Pod, netnsFD int, l Listeners) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p.Cookie == 0 {
		return errors.New("attach pod: no netns cookie")
	}
	if a := d.pods[p.Cookie]; a != nil {
		if err := errors.Join(a.keepNetns(netnsFD), d.fillPod(p.Cookie, a, l)); err != nil {
			return fmt.Errorf("attach pod %d again: %w", p.Cookie, err)
		}
		return nil
	}
	a, err := d.newAttachment(p.Cookie, netnsFD, l)
	if err != nil {
		return fmt.Errorf("attach pod %d: %w", p.Cookie, err)
	}
	d.pods[p.Cookie] = a
	return nil
}

// newAttachment builds the pod's pins under another name and publishes them complete.
func (d *Datapath) newAttachment(cookie uint64, netnsFD int, l Listeners) (_ *attachment, err error) {
	dir := d.podDir(cookie)
	a := &attachment{dir: dir + unfinished, netns: -1}
	if err := os.Mkdir(a.dir, 0o700); err != nil {
		return nil, err
	}
	spec := d.objects.lookup.Maps[mapListeners]
	if a.listeners, err = openMap(filepath.Join(a.dir, mapListeners), spec); err != nil {
		return nil, errors.Join(err, os.RemoveAll(a.dir))
	}
	err = errors.Join(a.keepNetns(netnsFD), d.fillPod(cookie, a, l))
	if err == nil {
		err = os.Rename(a.dir, dir)
	}
	if err != nil {
		return nil, errors.Join(err, a.remove())
	}
	a.dir = dir
	return a, nil
}

// fillPod sets the listeners, then the program that hands connections to them.
func (d *Datapath) fillPod(cookie uint64, a *attachment, l Listeners) error {
	for kind, fd := range []int{l.Outbound, l.HBONE, l.Plaintext} {
		if fd >= 0 {
			if err := a.setListener(kind, fd); err != nil {
				return err
			}
		}
	}
	prog, err := d.objects.loadForPod(d.objects.lookup, lookupProgOnLookup, cookie, d.podMaps(a))
	if err != nil {
		return err
	}
	defer prog.Close()
	return a.setLookup(prog)
}

func (d *Datapath) podMaps(a *attachment) map[string]*ebpf.Map {
	have := map[string]*ebpf.Map{mapListeners: a.listeners}
	for name, m := range d.maps {
		have[name] = m
	}
	return have
}

func (a *attachment) setListener(kind, fd int) error {
	err := a.listeners.Put(uint32(kind), uint64(fd))
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("set listener %d: %w (it must listen, and not be an MPTCP socket, as Go makes by default)", kind, err)
	}
	if err != nil {
		return fmt.Errorf("set listener %d: %w", kind, err)
	}
	return nil
}

// SetListener puts another listening socket into one of the pod's slots.
func (d *Datapath) SetListener(cookie uint64, kind int, fd int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.pods[cookie]
	if a == nil {
		return fmt.Errorf("set listener of pod %d: %w", cookie, ErrUnknownPod)
	}
	return a.setListener(kind, fd)
}

// AttachGuard puts the guard on the host's side of the pod's veth. The calling thread must be in the network
// namespace that hostIfindex belongs to. Repeated, it updates the program in place.
func (d *Datapath) AttachGuard(cookie uint64, hostIfindex int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.pods[cookie]
	if a == nil {
		return fmt.Errorf("guard pod %d: %w", cookie, ErrUnknownPod)
	}
	prog, err := d.objects.loadForPod(d.objects.guard, guardProgOnLeave, cookie, d.maps)
	if err != nil {
		return fmt.Errorf("guard pod %d: %w", cookie, err)
	}
	defer prog.Close()
	if err := a.setGuard(prog, hostIfindex); err != nil {
		return fmt.Errorf("guard pod %d: %w", cookie, err)
	}
	return nil
}

// DetachPod removes everything of the pod, pins too. A pod that isn't there is no error.
func (d *Datapath) DetachPod(cookie uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	errs := []error{d.forget(cookie)}
	if a := d.pods[cookie]; a != nil {
		errs = append(errs, a.remove())
		delete(d.pods, cookie)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("detach pod %d: %w", cookie, err)
	}
	return nil
}

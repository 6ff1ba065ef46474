// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// hook is a place at a cgroup where one of the programs is attached.
type hook struct {
	name    string // also its pin's
	program string
	attach  ebpf.AttachType
	probe   bool // at the kubelet's cgroup
}

// hooks in the order in which they are attached: connect comes last, so that nothing is redirected before there
// is somebody to carry the address along.
var hooks = []hook{
	{name: "getsockopt", program: sockoptProgOnGetsockopt, attach: ebpf.AttachCGroupGetsockopt},
	{name: "setsockopt", program: sockoptProgOnSetsockopt, attach: ebpf.AttachCGroupSetsockopt},
	{name: "getpeername4", program: getpeernameProgOnGetpeername4, attach: ebpf.AttachCgroupInet4GetPeername},
	{name: "getpeername6", program: getpeernameProgOnGetpeername6, attach: ebpf.AttachCgroupInet6GetPeername},
	{name: "probe", program: sockopsProgOnProbe, attach: ebpf.AttachCGroupSockOps, probe: true},
	{name: "sockops", program: sockopsProgOnSockops, attach: ebpf.AttachCGroupSockOps},
	{name: "connect4", program: connectProgOnConnect4, attach: ebpf.AttachCGroupInet4Connect},
	{name: "connect6", program: connectProgOnConnect6, attach: ebpf.AttachCGroupInet6Connect},
}

// cgroup returns the directory the hook belongs to, "" for none.
func (c Config) cgroup(h hook) string {
	if h.probe {
		return c.ProbeCgroup
	}
	return c.Cgroup
}

// attachHook makes prog run at the hook. An existing link is updated in place, which no connection notices. One that
// points elsewhere is ended first: two copies of connect would undo each other, and the guards stand meanwhile.
func (d *Datapath) attachHook(h hook, dir string, prog *ebpf.Program) (link.Link, error) {
	pin := d.linkPin(dir, h)
	old, err := openLink(pin)
	if err != nil {
		return nil, err
	}
	cgroup := d.cfg.cgroup(h)
	if cgroup == "" {
		return nil, drop(old, pin)
	}
	if old != nil {
		if at, err := attachedTo(old, cgroup); err == nil && at {
			if err := old.Update(prog); err != nil {
				old.Close()
				return nil, fmt.Errorf("update %s at %s: %w", h.name, cgroup, err)
			}
			return old, nil
		}
		if err := drop(old, pin); err != nil {
			return nil, fmt.Errorf("end %s at its old cgroup: %w", h.name, err)
		}
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: h.attach, Program: prog})
	if err != nil {
		return nil, fmt.Errorf("attach %s to %s: %w", h.name, cgroup, err)
	}
	if err := l.Pin(pin); err != nil {
		l.Close()
		return nil, fmt.Errorf("pin %s: %w", h.name, err)
	}
	return l, nil
}

// SetProbeCgroup notes the connections of this cgroup as the kubelet's from now on, and no other's; "" of none. A cgroup that
// was removed and made again at the same path is a new one.
func (d *Datapath) SetProbeCgroup(cgroup string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := hooks[slices.IndexFunc(hooks, func(h hook) bool { return h.probe })]
	if l := d.links[h.name]; l != nil {
		l.Close() // its pin stays, and says where it is
		delete(d.links, h.name)
	}
	d.cfg.ProbeCgroup = cgroup
	l, err := d.attachHook(h, d.dir, d.progs[h.program])
	if err != nil {
		d.cfg.ProbeCgroup = ""
		return err
	}
	if l != nil {
		d.links[h.name] = l
	}
	return nil
}

// attachedTo says whether a cgroup link is at the cgroup. A cgroup's id is its inode; a link whose cgroup was
// removed, or that was detached, reports 0.
func attachedTo(l link.Link, cgroup string) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, err
	}
	id, err := inode(cgroup)
	if err != nil {
		return false, err
	}
	c := info.Cgroup()
	return c != nil && c.CgroupId == id, nil
}

func inode(path string) (uint64, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return fi.Sys().(*syscall.Stat_t).Ino, nil
}

// runsAt asks the cgroup itself whether the program is attached.
func runsAt(cgroup string, attach ebpf.AttachType, id ebpf.ProgramID) (bool, error) {
	f, err := os.Open(cgroup)
	if err != nil {
		return false, err
	}
	defer f.Close()
	res, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: attach})
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(res.Programs, func(p link.AttachedProgram) bool { return p.ID == id }), nil
}

// verifyHook returns what is wrong with a hook, nil if nothing is.
func (d *Datapath) verifyHook(h hook) error {
	cgroup := d.cfg.cgroup(h)
	if cgroup == "" {
		return nil
	}
	l := d.links[h.name]
	if l == nil {
		return errors.New("not attached")
	}
	if at, err := attachedTo(l, cgroup); err != nil {
		return err
	} else if !at {
		return fmt.Errorf("not attached to %s any more", cgroup)
	}
	info, err := l.Info()
	if err != nil {
		return err
	}
	if runs, err := runsAt(cgroup, h.attach, info.Program); err != nil {
		return err
	} else if !runs {
		return fmt.Errorf("%s does not run it", cgroup)
	}
	if !pinned(d.linkPin(d.dir, h)) {
		return errPinGone
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// place is where a pod's packets are.
type place struct {
	ns          *namespace
	cgroup      string    // "" when unknown
	hostIfindex int       // of the veth's end on the host
	seen        candidate // that was in the namespace at the last look, zero before
}

// finder finds pods' namespaces.
type finder struct {
	cgroups cgroups
	proc    string // where procfs is
	host    *namespace
}

// newFinder opens the host's namespace, which the caller closes, and looks for the pods' cgroups.
func newFinder(cfg Config) (*finder, error) {
	file, err := os.Open(cfg.HostNetns)
	if err != nil {
		return nil, fmt.Errorf("open the host's network namespace: %w", err)
	}
	host, err := openNamespace(file)
	if err != nil {
		return nil, err
	}
	groups, err := findCgroups(cfg.CgroupRoot)
	if err != nil {
		host.close()
		return nil, err
	}
	return &finder{cgroups: groups, proc: cfg.Proc, host: host}, nil
}

// find locates a pod, by the namespace the agent was handed, or by its processes. The namespace must carry the
// pod's addresses: a process of a privileged pod may sit in another one.
func (f *finder) find(c wire.Capture, given *os.File) (place, error) {
	dir, err := f.cgroups.pod(c.UID)
	var handed error
	if given != nil {
		var p place
		if p, handed = f.handed(c, given, dir); handed == nil {
			return p, nil
		}
	}
	if err != nil && handed != nil {
		return place{}, fmt.Errorf("%w (%w)", handed, err)
	}
	if err != nil {
		return place{}, err
	}
	ps, err := pids(dir)
	if err != nil {
		return place{}, fmt.Errorf("find network of pod %s: %w", c.UID, err)
	}
	err = cmp.Or(handed, fmt.Errorf("find network of pod %s: no process in its cgroup yet", c.UID))
	tried, looked := map[uint64]bool{}, 0
	for _, pr := range f.eldest(ps) {
		if looked == mostLooked {
			err = fmt.Errorf("%w (the eldest %d of its %d processes were looked at)", err, looked, len(ps))
			break
		}
		file, inode, oerr := f.openProcess(pr.pid, dir)
		if oerr != nil {
			err = fmt.Errorf("find network of pod %s: %w", c.UID, oerr)
			continue
		}
		looked++
		if tried[inode] {
			file.Close()
			continue
		}
		tried[inode] = true
		var p place
		if p, err = f.check(c, file, dir); err == nil {
			p.seen = pr
			return p, nil
		}
	}
	return place{}, err
}

// handed makes a place of a namespace that stays the caller's.
func (f *finder) handed(c wire.Capture, given *os.File, dir string) (place, error) {
	fd, err := unix.FcntlInt(given.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return place{}, fmt.Errorf("find network of pod %s: %w", c.UID, os.NewSyscallError("fcntl", err))
	}
	return f.check(c, os.NewFile(uintptr(fd), "netns"), dir)
}

// openProcess opens a process's namespace, and makes sure that it still is that process of that cgroup.
func (f *finder) openProcess(pid int, dir string) (*os.File, uint64, error) {
	path := filepath.Join(f.proc, strconv.Itoa(pid), "ns/net")
	var before, opened, after unix.Stat_t
	if err := unix.Stat(path, &before); err != nil {
		return nil, 0, fmt.Errorf("process %d: %w", pid, os.NewSyscallError("stat", err))
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, fmt.Errorf("process %d: %w", pid, err)
	}
	err = errors.Join(unix.Fstat(int(file.Fd()), &opened), unix.Stat(path, &after))
	if err == nil && (before.Ino != opened.Ino || opened.Ino != after.Ino) {
		err = errors.New("its network namespace changed while it was opened")
	}
	if err == nil {
		var ps []int
		if ps, err = pids(dir); err == nil && !slices.Contains(ps, pid) {
			err = errors.New("left the pod while its network namespace was opened")
		}
	}
	if err != nil {
		file.Close()
		return nil, 0, fmt.Errorf("process %d: %w", pid, err)
	}
	return file, opened.Ino, nil
}

// check makes a place of an open namespace, which it takes over.
func (f *finder) check(c wire.Capture, file *os.File, dir string) (place, error) {
	ns, err := openNamespace(file)
	if err != nil {
		return place{}, fmt.Errorf("find network of pod %s: %w", c.UID, err)
	}
	if ns.inode == f.host.inode {
		ns.close()
		return place{}, fmt.Errorf("find network of pod %s: it is in the host's network namespace, which is never captured", c.UID)
	}
	ifindex, err := f.hostEnd(ns, c.Addresses)
	if err != nil {
		ns.close()
		return place{}, fmt.Errorf("find network of pod %s: %w", c.UID, err)
	}
	return place{ns: ns, cgroup: dir, hostIfindex: ifindex}, nil
}

// hostEnd returns the index, in the host's namespace, of the other end of the veth that carries the addresses. What
// the host's end says decides: in a namespace inside the pod, where the pod is root, addresses and interface numbers
// are what it likes.
func (f *finder) hostEnd(ns *namespace, addrs []netip.Addr) (int, error) {
	if len(addrs) == 0 {
		return 0, errors.New("the pod has no address yet")
	}
	inside, peer := 0, 0
	err := ns.do(func() error {
		have, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("list addresses: %w", err)
		}
		for _, want := range addrs {
			i := slices.IndexFunc(have, func(a netlink.Addr) bool {
				ip, ok := netip.AddrFromSlice(a.IP)
				return ok && ip.Unmap() == want.Unmap()
			})
			if i < 0 {
				return fmt.Errorf("the pod's address %v is on none of its interfaces", want)
			}
			if inside != 0 && have[i].LinkIndex != inside {
				return errors.New("the pod's addresses are on several interfaces (only one can be guarded)")
			}
			inside = have[i].LinkIndex
		}
		l, err := netlink.LinkByIndex(inside)
		if err != nil {
			return fmt.Errorf("look at interface %d: %w", inside, err)
		}
		peer = l.Attrs().ParentIndex
		return nil
	})
	if err != nil {
		return 0, err
	}
	err = f.host.do(func() error {
		l, err := netlink.LinkByIndex(peer)
		if err != nil {
			return fmt.Errorf("look at the host's end of the pod's interface, index %d: %w", peer, err)
		}
		id, err := netlink.GetNetNsIdByFd(ns.fd())
		if err != nil {
			return fmt.Errorf("identify the pod's network namespace: %w", err)
		}
		if a := l.Attrs(); l.Type() != "veth" || a.ParentIndex != inside || a.NetNsID < 0 || a.NetNsID != id {
			return fmt.Errorf("interface %s of the host is not the other end of the pod's (only veth pairs can be captured)", a.Name)
		}
		return nil
	})
	return peer, err
}

// alive reports whether the cgroup exists, and whether a process in it is in the namespace. An error means that it
// is not known: a pod is not to be let go for that.
//
// The process seen last is looked at first: a pod may have thousands. While it lives, only root moves it to another
// cgroup.
func (f *finder) alive(p *place) (cgroup, namespace bool, err error) {
	if _, serr := os.Stat(p.cgroup); serr == nil && f.stays(p.seen, p.ns) {
		return true, true, nil
	}
	ps, err := pids(p.cgroup)
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil
	}
	if err != nil {
		return true, false, err
	}
	for _, pid := range ps {
		var st unix.Stat_t
		serr := unix.Stat(filepath.Join(f.proc, strconv.Itoa(pid), "ns/net"), &st)
		switch {
		case serr == nil && st.Ino == p.ns.inode:
			start, _ := f.started(pid)
			p.seen = candidate{pid: pid, start: start}
			return true, true, nil
		case serr != nil && !errors.Is(serr, unix.ENOENT) && !errors.Is(serr, unix.ESRCH):
			err = fmt.Errorf("process %d: %w", pid, os.NewSyscallError("stat", serr))
		}
	}
	return true, false, err
}

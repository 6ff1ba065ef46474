// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A pod may make namespaces of its own, be root in them, and choose names, addresses and interface numbers there. None
// of them passes for its network: captured in the pod's stead, the pod itself would be free.
func TestNestedNamespaceIsNotThePods(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	g, err := os.Open(p.cgroup + "/sandbox")
	must(t, err)
	defer g.Close()
	nested, peers := openTestNamespace(t, w.hold(g)), openTestNamespace(t, w.hold(nil))
	f := &finder{cgroups: podsBelow(w.cgroup), proc: "/proc", host: w.host}
	real, err := f.find(p.capture(), nil)
	must(t, err)
	defer real.ns.close()

	must(t, peers.do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Index = p.hostEnd, real.hostIfindex
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(nested.fd())})
	}))
	must(t, nested.do(func() error { return setAddresses("eth0", p.v4, p.v6) }))
	fd, err := unix.FcntlInt(uintptr(nested.fd()), unix.F_DUPFD_CLOEXEC, 0)
	must(t, err)
	fake, err := f.check(p.capture(), os.NewFile(uintptr(fd), "nested"), p.cgroup)
	if err == nil {
		fake.ns.close()
		t.Errorf("a namespace inside the pod was taken for the pod's, with interface %d of the host", fake.hostIfindex)
	}
}

// The guard stands at one interface.
func TestAddressesOnSeveralInterfaces(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	f := &finder{cgroups: podsBelow(w.cgroup), proc: "/proc", host: w.host}
	must(t, p.ns.do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth1"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth2"}); err != nil {
			return err
		}
		other := netip.MustParsePrefix("fd99::2/64")
		l, err := netlink.LinkByName("eth1")
		if err != nil {
			return err
		}
		p.v6 = other.Addr()
		return netlink.AddrAdd(l, &netlink.Addr{IPNet: netlink.NewIPNet(other.Addr().AsSlice())})
	}))
	c := p.capture()
	slices.Reverse(c.Addresses) // eth0 last
	if pl, err := f.find(c, nil); err == nil {
		pl.ns.close()
		t.Error("found a pod with an interface that no guard would stand at")
	}
}

// A pod that owns its part of the cgroup tree may make a threaded group in it. It stays where it is for that.
func TestThreadedCgroupHidesNobody(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	f := &finder{cgroups: podsBelow(w.cgroup), proc: "/proc", host: w.host}
	sandbox := filepath.Join(p.cgroup, "sandbox")
	threads := filepath.Join(sandbox, "threads")
	move := func(to string) error {
		return os.WriteFile(filepath.Join(to, "cgroup.threads"), []byte(strconv.Itoa(p.pid)), 0)
	}
	must(t, os.Mkdir(threads, 0o755))
	t.Cleanup(func() { _ = os.Remove(threads) })
	must(t, os.WriteFile(filepath.Join(threads, "cgroup.type"), []byte("threaded"), 0))
	must(t, move(threads))
	t.Cleanup(func() { must(t, move(sandbox)) })
	pl, err := f.find(p.capture(), nil)
	must(t, err)
	defer pl.ns.close()
	if _, ns, err := f.alive(&pl); !ns || err != nil {
		t.Errorf("the pod's process is alive, not seen: %v", err)
	}
}

// What can't be seen now is not gone: whoever makes the broker run out of descriptors would free all pods at once.
func TestUnreadableIsNotGone(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	f := &finder{cgroups: podsBelow(w.cgroup), proc: "/proc", host: w.host}
	pl, err := f.find(p.capture(), nil)
	must(t, err)
	defer pl.ns.close()
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}))
	cgroup, ns, err := f.alive(&pl)
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	if err == nil {
		t.Errorf("without descriptors it is known that cgroup %v, namespace %v", cgroup, ns)
	}
}

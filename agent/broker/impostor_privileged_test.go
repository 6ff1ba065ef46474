// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"net/netip"
	"os"
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
	if pl, err := f.find(p.capture(), nil); err == nil {
		pl.ns.close()
		t.Error("found a pod with an interface that no guard would stand at")
	}
}

// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The addresses of a mesh. Every mesh has the same ones: their namespaces keep them apart.
var (
	wireIPv4     = netip.MustParsePrefix("10.200.0.0/24")
	wireIPv6     = netip.MustParsePrefix("fd00:200::/64")
	podsIPv4     = netip.MustParsePrefix("10.244.0.0/16") // a /24 per node
	podsIPv6     = netip.MustParsePrefix("fd00:244::/32") // a /48 per node
	servicesIPv4 = netip.MustParsePrefix("10.96.0.0/16")
	servicesIPv6 = netip.MustParsePrefix("fd00:96::/112")
)

// nodeSysctls make a node forward and skip duplicate address detection, which would take a second.
// rp_filter is inherited from the host, so it is set as well.
var nodeSysctls = map[string]string{
	"net/ipv4/ip_forward":              "1",
	"net/ipv6/conf/all/forwarding":     "1",
	"net/ipv6/conf/all/accept_dad":     "0",
	"net/ipv6/conf/default/accept_dad": "0",
	"net/ipv4/conf/all/rp_filter":      "0",
	"net/ipv4/conf/default/rp_filter":  "0",
}

var podSysctls = map[string]string{
	"net/ipv6/conf/all/accept_dad":     "0",
	"net/ipv6/conf/default/accept_dad": "0",
	"net/ipv4/conf/all/rp_filter":      "0",
	"net/ipv4/conf/default/rp_filter":  "0",
}

// nth returns the n-th address of a prefix.
func nth(p netip.Prefix, n int) netip.Addr {
	b := p.Addr().AsSlice()
	for i := len(b) - 1; n > 0 && i >= 0; i-- {
		n += int(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// sub returns the n-th subnet of the given length.
func sub(p netip.Prefix, bits, n int) netip.Prefix {
	b := p.Addr().AsSlice()
	b[bits/8-1] += byte(n) // the lengths used here end at a byte
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, bits)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// links is a netlink handle in a sandbox's network namespace. Close it soon: its socket keeps the namespace alive.
type links struct{ *netlink.Handle }

func (s *sandbox) links() (links, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", s.pid()))
	if err != nil {
		return links{}, err
	}
	defer f.Close()
	h, err := netlink.NewHandleAt(netns.NsHandle(f.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return links{}, fmt.Errorf("netlink in %s: %w", s.name, err)
	}
	return links{h}, nil
}

func (l links) up(name string) (netlink.Link, error) {
	link, err := l.LinkByName(name)
	if err == nil {
		err = l.LinkSetUp(link)
	}
	if err != nil {
		return nil, fmt.Errorf("set link %s up: %w", name, err)
	}
	return link, nil
}

// address adds an address; duplicate address detection is off for it.
func (l links) address(link netlink.Link, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := l.AddrAdd(link, a); err != nil {
		return fmt.Errorf("add address %s to %s: %w", p, link.Attrs().Name, err)
	}
	return nil
}

// route adds a route; without gateway the destination is on the link itself.
func (l links) route(link netlink.Link, dst netip.Prefix, gateway netip.Addr) error {
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(dst)}
	if gateway.IsValid() {
		r.Gw = gateway.AsSlice()
	} else if dst.Addr().Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	if err := l.RouteReplace(r); err != nil {
		return fmt.Errorf("add route %s via %s: %w", dst, gateway, err)
	}
	return nil
}

// veth makes a pair: one end here, the other called eth0 in the other sandbox.
func (l links) veth(name string, other *sandbox, bridge int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex, attrs.Flags = name, bridge, net.FlagUp
	err := l.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsPid(other.pid())})
	if err != nil {
		return fmt.Errorf("make veth %s to %s: %w", name, other.name, err)
	}
	if _, err := l.up(name); err != nil {
		return err
	}
	return nil
}

// list returns the links. While namespaces come and go the kernel may say that a dump is not of one moment: then again.
func (l links) list() ([]netlink.Link, error) {
	for range 100 {
		all, err := l.LinkList()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return nil, netlink.ErrDumpInterrupted
}

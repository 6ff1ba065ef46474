// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/vishvananda/netlink"
)

// wire is the bridge between the nodes, in a namespace of its own: the place where packets are captured.
type wire struct {
	*sandbox
	bridge int
}

func newWire(cgroup, log string) (*wire, error) {
	s, err := newSandbox("wire", cgroup, log, reapVariable+"="+filepath.Dir(cgroup))
	if err != nil {
		return nil, err
	}
	w := &wire{sandbox: s}
	if err := w.build(); err != nil {
		s.close()
		return nil, err
	}
	return w, nil
}

func (w *wire) build() error {
	// The bridge only carries frames: no addresses of its own, so no neighbour discovery noise in a capture.
	if err := w.do(request{Op: "sysctl", Sysctls: map[string]string{"net/ipv6/conf/default/disable_ipv6": "1"}}); err != nil {
		return err
	}
	l, err := w.links()
	if err != nil {
		return err
	}
	defer l.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "wire"
	b := &netlink.Bridge{LinkAttrs: attrs}
	if err := l.LinkAdd(b); err != nil {
		return fmt.Errorf("make bridge: %w", err)
	}
	w.bridge = b.Attrs().Index
	_, err = l.up("wire")
	return err
}

// plug joins a node to the wire and gives it its addresses there.
func (w *wire) plug(n *Node) error {
	l, err := w.links()
	if err != nil {
		return err
	}
	defer l.Close()
	if err := l.veth(n.Name, n.sandbox, w.bridge); err != nil {
		return err
	}
	in, err := n.sandbox.links()
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := in.up("lo"); err != nil {
		return err
	}
	eth0, err := in.up("eth0")
	if err != nil {
		return err
	}
	if err := in.address(eth0, netip.PrefixFrom(n.IPv4, wireIPv4.Bits())); err != nil {
		return err
	}
	return in.address(eth0, netip.PrefixFrom(n.IPv6, wireIPv6.Bits()))
}

// routeTo tells one node that another's pods live behind that one's address on the wire.
func (n *Node) routeTo(other *Node) error {
	l, err := n.sandbox.links()
	if err != nil {
		return err
	}
	defer l.Close()
	eth0, err := l.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := l.route(eth0, other.PodCIDRs[0], other.IPv4); err != nil {
		return err
	}
	return l.route(eth0, other.PodCIDRs[1], other.IPv6)
}

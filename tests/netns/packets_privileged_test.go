// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/tests/escape"
	"github.com/warren-mesh/warren/tests/packets"
	"github.com/warren-mesh/warren/tests/testutil"
)

// tap sees every frame on the wire between the nodes.
type tap struct{ *packets.Tap }

func newTap(t *testing.T, m *Mesh) tap {
	t.Helper()
	f, err := m.wire.sandbox.socket(unix.AF_PACKET, unix.SOCK_RAW, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		t.Fatal(err)
	}
	wire, err := packets.NewTap(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { wire.Close() })
	return tap{wire}
}

// until reads frames until the tag of one comes by, and says whether another tag did before it. Fails after 5 s.
func (w tap) until(t *testing.T, last, other []byte) (sawOther bool) {
	t.Helper()
	var others [][]byte
	if other != nil {
		others = append(others, other)
	}
	seen, err := w.Until(5*time.Second, last, others...)
	if err != nil {
		t.Fatal(err)
	}
	return len(seen) > 0
}

// link is the pod's interface, for sending what no connect sees.
func (p *Pod) link(t *testing.T) escape.Link {
	t.Helper()
	own := attributes(t, p.sandbox, "eth0")
	return escape.Link{Socket: p.Socket, Index: own.Index, MAC: own.HardwareAddr, Next: p.hostEnd(t).HardwareAddr}
}

// hostEnd is the node's end of the pod's link.
func (p *Pod) hostEnd(t *testing.T) *netlink.LinkAttrs { return attributes(t, p.Node.sandbox, p.veth) }

func attributes(t *testing.T, s *sandbox, name string) *netlink.LinkAttrs {
	t.Helper()
	l, err := s.links()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	link, err := l.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs()
}

// TestNoSYNLeavesByPackets sends SYNs that no connect saw, to a pod outside the mesh and to a captured one. Before the
// pod is captured each is seen on the wire; after it none is, and the guard has counted it.
func TestNoSYNLeavesByPackets(t *testing.T) {
	testutil.Privileged(t)
	m := New(t, Options{})
	m.Namespace("app", Enrolled())
	client := m.Node("a").Pod("client", In("app"), ServiceAccount("client"))
	far := m.Node("b").Pod("far", In("app"), ServiceAccount("far"))
	outside := m.Node("b").Pod("outside")
	vlans := acceptVLAN(t, client)
	wire := newTap(t, m)
	port := uint16(2000)
	tagOf := func(kind byte) ([4]byte, uint16) {
		port++
		return [4]byte{kind, 'W', byte(port >> 8), byte(port)}, port
	}
	link := client.link(t)
	// each sends by every sender to both pods; check is told the tag to look for, and how to send what surely arrives.
	each := func(check func(t *testing.T, s escape.Sender, tag []byte, send, fence func())) {
		for _, s := range escape.Senders() {
			for _, to := range []*Pod{outside, far} {
				if t.Failed() {
					return // one says it, and each takes its time
				}
				t.Run(s.Name+" to "+to.Name, func(t *testing.T) {
					network := map[bool]string{false: "tcp4", true: "tcp6"}[s.IPv6]
					tag, p := tagOf('S')
					from := client.Addr(network, p)
					check(t, s, tag[:], func() {
						if err := s.Send(link, from, to.Addr(network, 8080), tag); err != nil {
							t.Fatal(err)
						}
					}, func() {
						last, p := tagOf('A')
						from := client.Addr(network, p)
						if err := link.Inject(false, escape.Whole(from, to.Addr(network, 8080), packets.ACK, last)); err != nil {
							t.Fatal(err)
						}
						if wire.until(t, last[:], tag[:]) {
							t.Error("it was on the wire")
						}
					})
				})
			}
		}
	}
	each(func(t *testing.T, s escape.Sender, tag []byte, send, _ func()) {
		if s.VLAN && !vlans {
			// A kernel without VLANs has no way out by a tag. That the guard drops the frame is shown below all the same.
			t.Log("this kernel has no VLANs, so the node takes no tagged frame, captured or not")
			return
		}
		send()
		wire.until(t, tag, nil)
	})
	if t.Failed() {
		t.Fatal("what does not arrive without the mesh proves nothing about it")
	}
	m.Up()
	each(func(t *testing.T, s escape.Sender, tag []byte, send, fence func()) {
		a := witness(t, client.Node)
		send()
		a.counted(s.Reason)
		fence() // no SYN: it may pass, and whatever was sent before it would have come before it
	})
}

// acceptVLAN lets the node take tagged frames of a pod and route them on, so that a tag would be a way out. False
// where the kernel can't.
func acceptVLAN(t *testing.T, p *Pod) bool {
	t.Helper()
	l, err := p.Node.sandbox.links()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	vlan := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "tagged", ParentIndex: p.hostEnd(t).Index}, VlanId: packets.VLAN}
	if err := l.LinkAdd(vlan); errors.Is(err, unix.EOPNOTSUPP) {
		return false
	} else if err != nil {
		t.Fatalf("make a VLAN on %s: %v", p.veth, err)
	}
	if err := l.LinkSetUp(vlan); err != nil {
		t.Fatal(err)
	}
	return true
}

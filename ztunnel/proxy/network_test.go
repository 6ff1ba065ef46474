// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"

	"github.com/warren-mesh/warren/ztunnel/inpod"
)

// network gives pods addresses of their own over loopback TCP: a dial to a pod's address reaches the listener
// registered for it, and both ends see the pods' addresses.
type network struct {
	mu        sync.Mutex
	known     *sync.Cond
	listeners map[netip.AddrPort]net.Listener
	captured  map[netip.Addr]net.Listener // by pod address: its plaintext listener
	legs      map[ports]leg
	tunnels   []*inpod.Conn           // every connection dialled to port 15008
	silent    map[netip.AddrPort]bool // dials there get no answer
	held      map[netip.AddrPort]*held
}

// ports are the real ones of a connection, of the dialling end and of the listener: the kernel gives one port to
// connections to several listeners.
type ports struct{ dialling, listening uint16 }

func port(a net.Addr) uint16 { return a.(*net.TCPAddr).AddrPort().Port() }

// leg is one connection as its accepting end sees it.
type leg struct{ local, remote, original netip.AddrPort }

func newNetwork() *network {
	n := &network{listeners: map[netip.AddrPort]net.Listener{}, captured: map[netip.Addr]net.Listener{}, legs: map[ports]leg{}, silent: map[netip.AddrPort]bool{},
		held: map[netip.AddrPort]*held{}}
	n.known = sync.NewCond(&n.mu)
	return n
}

// listen makes a real listener for a pod's address.
func (n *network) listen(t *testing.T, at netip.AddrPort) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	n.mu.Lock()
	n.listeners[at] = l
	n.mu.Unlock()
	return l
}

// connect dials from src to dst; own: from the pod that has dst, so nothing captures it.
func (n *network) connect(ctx context.Context, l net.Listener, e leg) (*net.TCPConn, error) {
	if l == nil {
		return nil, fmt.Errorf("connect %s: %w", e.local, syscall.ECONNREFUSED)
	}
	c, err := new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	at := ports{port(c.LocalAddr()), port(c.RemoteAddr())}
	if e.remote.Port() == 0 {
		e.remote = netip.AddrPortFrom(e.remote.Addr(), at.dialling)
	}
	n.mu.Lock()
	n.legs[at] = e
	n.known.Broadcast()
	n.mu.Unlock()
	return c.(*net.TCPConn), nil
}

// leg waits for what the dialling end noted.
func (n *network) leg(c net.Conn) leg {
	at := ports{port(c.RemoteAddr()), port(c.LocalAddr())}
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		if e, ok := n.legs[at]; ok {
			return e
		}
		n.known.Wait()
	}
}

// route finds who answers at dst.
func (n *network) route(dst netip.AddrPort, own bool) (l net.Listener, silent bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.captured[dst.Addr()]; l != nil && !own && dst.Port() != 15008 {
		return l, false
	}
	return n.listeners[dst], n.silent[dst]
}

// held is an address where dials wait: begun gets a token from each, closing release lets them go on.
type held struct{ begun, release chan struct{} }

func (n *network) hold(dst netip.AddrPort) *held {
	h := &held{make(chan struct{}, 1), make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held[dst] = h
	return h
}

func (n *network) awaitRelease(ctx context.Context, dst netip.AddrPort) error {
	n.mu.Lock()
	h := n.held[dst]
	n.mu.Unlock()
	if h == nil {
		return nil
	}
	h.begun <- struct{}{}
	select {
	case <-h.release:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sockets are one node's.
type sockets struct {
	net     *network
	events  chan inpod.Event
	mu      sync.Mutex
	pods    map[string]netip.Addr
	drained map[string]bool
	reopen  func(pod string) // nil: nothing was closed
}

func newSockets(n *network) *sockets {
	return &sockets{net: n, events: make(chan inpod.Event), pods: map[string]netip.Addr{}, drained: map[string]bool{}}
}

func (s *sockets) Events() <-chan inpod.Event { return s.events }

func (s *sockets) Drained(pod string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drained[pod] = true
}

func (s *sockets) Reopen(pod string) {
	if s.reopen != nil {
		s.reopen(pod)
	}
}

func (s *sockets) Dial(ctx context.Context, pod string, dst, client netip.AddrPort) (*inpod.Conn, error) {
	s.mu.Lock()
	src, ok := s.pods[pod]
	s.mu.Unlock()
	if !ok {
		return nil, inpod.ErrPodGone
	}
	l, silent := s.net.route(dst, src == dst.Addr())
	if silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := s.net.awaitRelease(ctx, dst); err != nil {
		return nil, err
	}
	e := leg{local: dst, remote: netip.AddrPortFrom(src, 0)}
	if client.IsValid() {
		e.remote = client
	}
	c, err := s.net.connect(ctx, l, e)
	if err != nil {
		return nil, err
	}
	conn, err := inpod.NewConn(c, false, netip.AddrPortFrom(src, c.LocalAddr().(*net.TCPAddr).AddrPort().Port()), dst)
	if err == nil && dst.Port() == 15008 {
		s.net.mu.Lock()
		s.net.tunnels = append(s.net.tunnels, conn)
		s.net.mu.Unlock()
	}
	return conn, err
}

func (s *sockets) DialSelf(context.Context, netip.AddrPort) (net.Conn, error) {
	return nil, inpod.ErrNoSocket
}
func (s *sockets) Unix(context.Context, string) (net.Conn, error) { return nil, inpod.ErrNoSocket }

// podListener stands for one of a pod's listeners.
type podListener struct {
	net.Listener
	network  *network
	outbound bool
}

func (l podListener) Accept() (*inpod.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	e := l.network.leg(c)
	return inpod.NewConn(c.(*net.TCPConn), l.outbound, e.local, e.remote)
}

// originalDestination answers for the kernel.
func (n *network) originalDestination(c *inpod.Conn) (netip.AddrPort, error) {
	if e := n.leg(c); e.original.IsValid() {
		return e.original, nil
	}
	return netip.AddrPort{}, syscall.ENOPROTOOPT
}

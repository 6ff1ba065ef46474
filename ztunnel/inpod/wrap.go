// SPDX-License-Identifier: Apache-2.0

package inpod

import (
	"net"
	"net/netip"
)

// NewConn takes over a connection that did not come from the broker, for other implementations of Sockets.
// outbound: it was accepted by an outbound listener. local and remote replace the socket's own addresses where
// they are valid. It resets the peer unless Orderly, like every Conn.
func NewConn(c *net.TCPConn, outbound bool, local, remote netip.AddrPort) (*Conn, error) {
	if err := c.SetLinger(0); err != nil {
		c.Close()
		return nil, err
	}
	conn := &Conn{transport: c, outbound: outbound, local: addrPort(c.LocalAddr()), remote: addrPort(c.RemoteAddr())}
	if local.IsValid() {
		conn.local = local
	}
	if remote.IsValid() {
		conn.remote = remote
	}
	return conn, nil
}

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

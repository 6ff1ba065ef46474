// SPDX-License-Identifier: Apache-2.0

package inpod

import "net"

// NewConn takes over a connection that did not come from the broker, for other implementations of Sockets.
// outbound: it was accepted by an outbound listener. It resets the peer unless Orderly, like every Conn.
func NewConn(c *net.TCPConn, outbound bool) (*Conn, error) {
	if err := c.SetLinger(0); err != nil {
		c.Close()
		return nil, err
	}
	return newConn(c, outbound), nil
}

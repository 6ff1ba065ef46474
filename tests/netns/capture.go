// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/tests/packets"
)

// Capture starts to record the wire between the nodes, where every segment is seen once, and stops with the mesh at the
// latest.
func (m *Mesh) Capture() *packets.Capture {
	m.t.Helper()
	c, err := m.wire.capture()
	if err != nil {
		m.t.Fatalf("capture packets: %v", err)
	}
	m.t.Cleanup(c.Stop)
	return c
}

// capture opens a packet socket over all ports of the bridge.
func (w *wire) capture() (*packets.Capture, error) {
	f, err := w.sandbox.socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		return nil, err
	}
	return packets.New(f)
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"net/netip"
	"testing"

	"github.com/warren-mesh/warren/ztunnel/inpod"
)

// BenchmarkDial dials from a captured pod to the host over brokered sockets, one after the other. The broker's
// process runs beside it, so its share shows in the time only where cores are few.
func BenchmarkDial(b *testing.B) {
	w := newWorld(b)
	p := w.pod()
	z, _ := w.startZtunnel("bench")
	w.startBroker()
	a := w.startAgent()
	a.Update(p.capture())
	a.Sync()
	listeners(b, z, p.uid)
	waitState(b, a, "captured", isCaptured)
	to := netip.AddrPortFrom(p.hostV4, 9000)
	srv := listenIn(b, w.host, to)
	go func() {
		for {
			c, err := srv.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	var c *inpod.Conn
	var err error
	for b.Loop() {
		if c, err = z.Dial(b.Context(), p.uid, to, netip.AddrPort{}); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
	s, err := a.Stats(b.Context())
	must(b, err)
	b.ReportMetric(float64(s.Pools[p.uid].Refused)/float64(b.N), "refused/op")
}

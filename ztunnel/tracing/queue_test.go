// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"log/slog"
	"net/netip"
	"strconv"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestOnePodTakesNoOthersRoom: whoever has trace ids that all have spans fills its share of the queue, and the spans of
// others are taken.
func TestOnePodTakesNoOthersRoom(t *testing.T) {
	of := func(kind Kind, opener string) *Span {
		s := sample()
		s.Kind, s.Local, s.Remote = kind, Peer{PodUID: "here"}, Peer{PodUID: opener}
		if kind == Client {
			s.Local, s.Remote = s.Remote, s.Local
		}
		return s
	}
	stranger := func() *Span {
		s := of(Server, "")
		s.Source = netip.MustParseAddrPort("[::ffff:192.0.2.1]:4000")
		return s
	}
	c := newCounts(nil)
	e := newExporter("otlp", nil, c, slog.New(slog.DiscardHandler))
	lost := func(cause string) int { return int(testutil.ToFloat64(c.lost.WithLabelValues("otlp", cause))) }
	const noisy = 2 * queueLength
	for i := range noisy {
		e.offer(of([]Kind{Client, Server}[i%2], "noisy"))
	}
	if n := len(e.queue.out); n != podShare || lost(shareFull) != noisy-podShare {
		t.Errorf("of one pod %d wait and %d were dropped, want %d and %d", n, lost(shareFull), podShare, noisy-podShare)
	}
	for i := range podShare {
		e.offer(of(Server, "quiet"))
		e.offer(stranger())
		e.offer(of(Client, strconv.Itoa(i)))
	}
	if n := len(e.queue.out); n != 4*podShare || lost(queueFull) != 0 {
		t.Errorf("%d wait and %d were dropped, want %d and none", n, lost(queueFull), 4*podShare)
	}
	for len(e.queue.out) > 0 {
		e.queue.taken(<-e.queue.out)
	}
	if n := len(e.queue.waiting); n != 0 {
		t.Errorf("%d pods are remembered of whom nothing waits", n)
	}
	for i := range queueLength + 10 {
		e.offer(of(Server, strconv.Itoa(i)))
	}
	if lost(queueFull) != 10 || len(e.queue.waiting) != queueLength {
		t.Errorf("%d were dropped for want of room and %d pods are remembered, want 10 and %d", lost(queueFull), len(e.queue.waiting), queueLength)
	}
}

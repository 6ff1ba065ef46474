// SPDX-License-Identifier: Apache-2.0

package hbone

import "time"

const (
	// peerWindow is what a peer grants before its SETTINGS (RFC 9113 section 6.9.2).
	peerWindow       = 65535
	streamWindow     = 256 << 10
	maxStreamWindow  = 4 << 20
	connWindow       = 1 << 20
	maxConnWindow    = 16 << 20
	minRTT           = 2 * time.Millisecond
	windowsPerGrowth = 4
)

// window is the receiving side of flow control, of a stream or of a connection.
//
// Credit goes back when a quarter of the window has been taken. Growth follows the drain rate: a window that is
// emptied faster than once in four round trips may be what limits the sender, so it doubles, up to its limit.
// Round trips below 2 ms count as 2 ms: in a fast network larger windows save wake-ups. A reader that is slow
// never makes its window grow, so what waits in memory for it stays at 256 KiB. Windows don't shrink.
type window struct {
	size  int64 // what the peer may have in flight
	avail int64 // what it may still send
	taken int64 // consumed and not yet given back
	since int64 // monotonic nanoseconds of the last credit
}

// receive accounts for n bytes that arrived; false if the peer was not entitled to them.
func (w *window) receive(n int) bool {
	w.avail -= int64(n)
	return w.avail >= 0
}

// consume returns the credit to send after n bytes were taken, 0 for none yet.
func (w *window) consume(n int, limit int64, rtt time.Duration) uint32 {
	w.taken += int64(n)
	if w.taken < w.size/4 {
		return 0
	}
	now := monotonic()
	grow := int64(0)
	if w.since != 0 && w.size < limit {
		full := (now - w.since) * w.size / w.taken // how long a whole window takes
		if full < int64(max(rtt, minRTT))*windowsPerGrowth {
			grow = min(w.size, limit-w.size)
		}
	}
	w.since = now
	credit := w.taken + grow
	w.size += grow
	w.avail += credit
	w.taken = 0
	return uint32(credit)
}

var start = time.Now()

func monotonic() int64 { return int64(time.Since(start)) + 1 }

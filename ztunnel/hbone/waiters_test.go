// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"encoding/binary"
	"slices"
	"testing"
)

// waiting are a connection's waiters, in order; it fails where the links of the two directions differ.
func waiting(t *testing.T, c *conn) (ids []uint32) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := c.waiters.first; s != nil; s = s.behind {
		ids = append(ids, s.id)
	}
	var back []uint32
	for s := c.waiters.last; s != nil; s = s.before {
		back = append(back, s.id)
	}
	if slices.Reverse(back); !slices.Equal(ids, back) {
		t.Errorf("forward %v, backward %v", ids, back)
	}
	return ids
}

func update(stream, n uint32) (frameHeader, []byte) {
	return frameHeader{length: 4, typ: frameWindowUpdate, stream: stream}, binary.BigEndian.AppendUint32(nil, n)
}

// TestWakesOneStream: window for one stream wakes that one and looks at no other; window for the connection wakes all
// that can go on, in their order; a stream that ends waits no more.
func TestWakesOneStream(t *testing.T) {
	c := newConn(&sunk{}, Config{}, true)
	c.nextID = 11
	c.mu.Lock()
	for id := uint32(1); id < c.nextID; id += 2 {
		s := c.newStream(id)
		s.sendWindow = 0
		c.waiters.add(s)
		c.waiters.add(s)
	}
	c.streams[7].sendWindow = 1 // only looking at it would tell
	c.mu.Unlock()
	for _, tt := range []struct {
		stream uint32
		want   []uint32
	}{{3, []uint32{1, 5, 7, 9}}, {9, []uint32{1, 5, 7}}, {9, []uint32{1, 5, 7}}, {1, []uint32{5, 7}}, {0, []uint32{5}}} {
		if err := c.reader.onWindowUpdate(update(tt.stream, 1)); err != nil {
			t.Fatal(err)
		}
		if got := waiting(t, c); !slices.Equal(got, tt.want) {
			t.Errorf("after WINDOW_UPDATE on %d %v wait, want %v", tt.stream, got, tt.want)
		}
	}
	c.abort(c.streams[5], &ResetError{Code: CodeCancel})
	if got := waiting(t, c); len(got) > 0 {
		t.Errorf("%v wait, and nobody is left", got)
	}
}

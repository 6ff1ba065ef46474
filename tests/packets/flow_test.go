// SPDX-License-Identifier: Apache-2.0

package packets

import (
	"testing"
)

func TestStreamIsPutInOrder(t *testing.T) {
	seg := func(seq uint32, s string) segment { return segment{seq: seq, payload: []byte(s)} }
	tests := []struct {
		name     string
		isn      uint32
		segments []segment
		want     string
	}{
		{"in order", 100, []segment{seg(100, "ab"), seg(102, "cd")}, "abcd"},
		{"out of order", 100, []segment{seg(102, "cd"), seg(100, "ab")}, "abcd"},
		{"sent again", 100, []segment{seg(100, "ab"), seg(100, "abcd"), seg(102, "cd")}, "abcd"},
		{"a hole", 100, []segment{seg(100, "ab"), seg(110, "yz")}, "abyz"},
		{"numbers wrap", 0xffffffff, []segment{seg(1, "cd"), seg(0xffffffff, "ab")}, "abcd"},
		{"nothing", 100, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := stream{isn: tt.isn, syn: true, segments: tt.segments}
			if got := string(s.bytes()); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTLSRecords(t *testing.T) {
	record := "\x17\x03\x03\x00\x02ab"
	tests := []struct {
		name, stream string
		want         int
		ok           bool
	}{
		{"nothing", "", 0, true},
		{"two", record + record, 2, true},
		{"cut in the second's header", record + record[:3], 1, true},
		{"cut in the second's body", record + record[:6], 2, true},
		{"plain text", "GET / HTTP/1.1", 0, false},
		{"text after a record", record + "hello", 1, false},
		{"too long", "\x17\x03\x03\xff\xff", 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := TLSRecords([]byte(tt.stream))
			if got != tt.want || (err == nil) != tt.ok {
				t.Errorf("got %d, %v; want %d, ok %v", got, err, tt.want, tt.ok)
			}
		})
	}
}

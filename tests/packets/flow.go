// SPDX-License-Identifier: Apache-2.0

package packets

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Flow is one direction of a TCP connection.
type Flow struct{ Source, Destination netip.AddrPort }

func (f Flow) String() string { return fmt.Sprintf("%s -> %s", f.Source, f.Destination) }

// Reverse is the other direction.
func (f Flow) Reverse() Flow { return Flow{f.Destination, f.Source} }

// segment is one TCP segment.
type segment struct {
	flow    Flow
	seq     uint32
	syn     bool
	payload []byte
}

// stream is the segments of one flow, in the order they came.
type stream struct {
	started  time.Time
	isn      uint32 // of the SYN
	syn      bool
	segments []segment
}

func (s *stream) add(g segment) {
	if g.syn {
		s.isn, s.syn = g.seq+1, true
	}
	if len(g.payload) > 0 {
		g.payload = bytes.Clone(g.payload)
		s.segments = append(s.segments, g)
	}
}

// bytes puts the segments in order, without what was sent twice. A hole is left out: what follows it is appended.
func (s *stream) bytes() []byte {
	if len(s.segments) == 0 {
		return nil
	}
	start := s.segments[0].seq
	if s.syn {
		start = s.isn
	}
	segments := slices.Clone(s.segments)
	slices.SortStableFunc(segments, func(a, b segment) int { return cmp.Compare(a.seq-start, b.seq-start) })
	var out []byte
	next := uint32(0)
	for _, g := range segments {
		offset := g.seq - start
		if offset > next {
			next = offset
		}
		if skip := next - offset; int(skip) < len(g.payload) {
			out = append(out, g.payload[skip:]...)
			next = offset + uint32(len(g.payload))
		}
	}
	return out
}

// parseFrame reads Ethernet, IPv4 or IPv6 (without extension headers) and TCP. Anything else is not ok.
func parseFrame(b []byte) (segment, bool) {
	if len(b) < 14 {
		return segment{}, false
	}
	var source, destination netip.Addr
	ip := b[14:]
	switch binary.BigEndian.Uint16(b[12:]) {
	case 0x0800:
		if len(ip) < 20 || ip[9] != 6 || binary.BigEndian.Uint16(ip[6:])&0x1fff != 0 {
			return segment{}, false
		}
		header, total := int(ip[0]&0xf)*4, int(binary.BigEndian.Uint16(ip[2:]))
		if total == 0 || total > len(ip) { // GSO leaves 0 in frames beyond 64 KiB
			total = len(ip)
		}
		if header < 20 || header > total {
			return segment{}, false
		}
		source, destination = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		ip = ip[header:total]
	case 0x86dd:
		if len(ip) < 40 || ip[6] != 6 {
			return segment{}, false
		}
		source, destination = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		if n := int(binary.BigEndian.Uint16(ip[4:])); n > 0 && 40+n <= len(ip) {
			ip = ip[:40+n]
		}
		ip = ip[40:]
	default:
		return segment{}, false
	}
	if len(ip) < 20 || int(ip[12]>>4)*4 > len(ip) || ip[12]>>4 < 5 {
		return segment{}, false
	}
	return segment{
		flow: Flow{
			netip.AddrPortFrom(source, binary.BigEndian.Uint16(ip)),
			netip.AddrPortFrom(destination, binary.BigEndian.Uint16(ip[2:])),
		},
		seq: binary.BigEndian.Uint32(ip[4:]), syn: ip[13]&2 != 0, payload: ip[int(ip[12]>>4)*4:],
	}, true
}

// Flows returns what was seen, one per direction, sorted by source and destination.
func (c *Capture) Flows() []Flow {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Flow
	for f := range c.flows {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b Flow) int {
		return cmp.Or(a.Source.Compare(b.Source), a.Destination.Compare(b.Destination))
	})
	return out
}

// Bytes returns one direction's payload, in order.
func (c *Capture) Bytes(f Flow) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.flows[f]; s != nil {
		return s.bytes()
	}
	return nil
}

// Contains returns the flows in whose payload the marker stands.
func (c *Capture) Contains(marker []byte) []Flow {
	var out []Flow
	for _, f := range c.Flows() {
		if bytes.Contains(c.Bytes(f), marker) {
			out = append(out, f)
		}
	}
	return out
}

// Between returns the flows whose ends are these two addresses, in either direction.
func (c *Capture) Between(a, b netip.Addr) []Flow {
	var out []Flow
	for _, f := range c.Flows() {
		if s, d := f.Source.Addr(), f.Destination.Addr(); s == a && d == b || s == b && d == a {
			out = append(out, f)
		}
	}
	return out
}

// TLSRecords counts the TLS records that a byte stream consists of, and fails where anything else stands in it. The
// stream may end inside a record.
func TLSRecords(b []byte) (int, error) {
	n := 0
	for offset := 0; offset < len(b); n++ {
		rest := b[offset:]
		if rest[0] < 20 || rest[0] > 24 || len(rest) > 1 && rest[1] != 3 {
			return n, fmt.Errorf("after %d records, at byte %d, no TLS record: % x", n, offset, rest[:min(len(rest), 16)])
		}
		if len(rest) < 5 {
			return n, nil
		}
		length := int(binary.BigEndian.Uint16(rest[3:]))
		if length > 16384+256 {
			return n, fmt.Errorf("after %d records, at byte %d, a TLS record of %d bytes", n, offset, length)
		}
		offset += 5 + length
	}
	return n, nil
}

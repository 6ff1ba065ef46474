// SPDX-License-Identifier: Apache-2.0

// Package accesslog writes one line per finished connection, and where it is asked to one for each that is opened, as
// text or JSON, with the keys of ambient's access log and Warren's reason. Which connections have a line and how it is
// written can change while it runs. Writing never blocks the data path: what a full queue can't take is dropped and
// counted.
package accesslog

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/warren-mesh/warren/mesh/reason"
)

// Peer is one end of a connection. Empty fields are left out.
type Peer struct {
	Addr      netip.AddrPort
	Workload  string
	Namespace string
	Identity  string
	Cluster   string
}

// Record is one finished connection, or one that was just opened.
type Record struct {
	// Opened: bytes may flow from now on; Sent, Received, Duration and Err have no meaning yet and are left out.
	Opened bool
	// Early: it failed before anybody said what it was for, in the handshake of a tunnel.
	Early bool
	Time  time.Time
	Src   Peer
	Dst   Peer
	// HBONEAddr is the target named in CONNECT, where the connection was tunnelled.
	HBONEAddr string
	// Service is the host name of the service the client addressed.
	Service   string
	Direction string // "outbound" or "inbound"
	Sent      uint64 // bytes, as the reporting side sees it
	Received  uint64
	Duration  time.Duration
	Reason    reason.Reason
	Policy    string // of a refusal
	// DryRun and Audit name the policies of those kinds that matched, comma-separated.
	DryRun, Audit string
	TraceID       string
	Err           error // nil for a connection that ended in order
}

// Format is how a record becomes a line.
type Format func(b []byte, r *Record) []byte

// Text appends "time level access message key=value ...", values quoted where they need it.
func Text(b []byte, r *Record) []byte {
	b = r.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	level, message := r.headline()
	b = append(append(append(append(b, ' '), level...), " access "...), message...)
	r.each(func(key, s string, n uint64, number bool) {
		b = append(append(append(b, ' '), key...), '=')
		switch {
		case number:
			b = strconv.AppendUint(b, n, 10)
		case plain(s):
			b = append(b, s...)
		default:
			b = strconv.AppendQuote(b, s)
		}
	})
	return append(b, '\n')
}

// JSON appends one object per line.
func JSON(b []byte, r *Record) []byte {
	b = append(b, `{"time":"`...)
	b = r.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	level, message := r.headline()
	b = append(append(append(b, `","level":"`...), level...), `","scope":"access","message":"`...)
	b = append(append(b, message...), '"')
	r.each(func(key, s string, n uint64, number bool) {
		b = append(append(append(b, `,"`...), key...), `":`...)
		if number {
			b = strconv.AppendUint(b, n, 10)
		} else {
			b = appendJSONString(b, s)
		}
	})
	return append(b, "}\n"...)
}

// headline is a record's level and message.
func (r *Record) headline() (level, message string) {
	switch {
	case r.Opened:
		return "debug", "connection opened"
	case r.Early:
		return "warn", "connection failed"
	case r.Err != nil:
		return "error", "connection complete"
	}
	return "info", "connection complete"
}

// each calls f for every key that has a value, in the order of ambient's log.
func (r *Record) each(f func(key, s string, n uint64, number bool)) {
	word := func(key, s string) {
		if s != "" {
			f(key, s, 0, false)
		}
	}
	peer := func(keys *[5]string, p *Peer) {
		if p.Addr.IsValid() {
			f(keys[0], p.Addr.String(), 0, false)
		}
		word(keys[1], p.Workload)
		word(keys[2], p.Namespace)
		word(keys[3], p.Identity)
		word(keys[4], p.Cluster)
	}
	peer(&srcKeys, &r.Src)
	word("dst.hbone_addr", r.HBONEAddr)
	word("dst.service", r.Service)
	peer(&dstKeys, &r.Dst)
	word("direction", r.Direction)
	if !r.Opened {
		f("bytes_sent", "", r.Sent, true)
		f("bytes_recv", "", r.Received, true)
		f("duration", strconv.FormatInt(r.Duration.Milliseconds(), 10)+"ms", 0, false)
	}
	f("reason", r.Reason.String(), 0, false)
	word("policy", r.Policy)
	word("policy_dry_run", r.DryRun)
	word("policy_audit", r.Audit)
	word("trace_id", r.TraceID)
	if r.Err != nil && !r.Opened {
		f("error", r.Err.Error(), 0, false)
	}
}

var (
	srcKeys = [5]string{"src.addr", "src.workload", "src.namespace", "src.identity", "src.cluster"}
	dstKeys = [5]string{"dst.addr", "dst.workload", "dst.namespace", "dst.identity", "dst.cluster"}
)

// plain reports whether s can stand in a text line without quotes.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == '"' || c == '=' || c == '\\' || c >= 0x7f {
			return false
		}
	}
	return s != ""
}

const hex = "0123456789abcdef"

func appendJSONString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s { // invalid UTF-8 becomes U+FFFD
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < 0x20:
			b = append(b, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			b = append(b, string(r)...)
		}
	}
	return append(b, '"')
}

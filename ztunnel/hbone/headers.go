// SPDX-License-Identifier: Apache-2.0

package hbone

import "golang.org/x/net/http2/hpack"

// maxContinuations bounds the frames of one header block.
const maxContinuations = 32

// Header is what CONNECT and its answer carry besides their pseudo-header fields. Empty fields are not sent.
// Several fields of one name arrive joined by commas.
type Header struct {
	Baggage     string
	Forwarded   string
	TraceParent string
	// Other holds all further fields, names in lower case.
	Other []Field
}

// Field is one header field.
type Field struct{ Name, Value string }

// Get returns the value of the first field of that name in Other, name in lower case.
func (h *Header) Get(name string) string {
	for _, f := range h.Other {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// headerBlock collects one decoded header block.
type headerBlock struct {
	limit   int
	size    int
	count   int
	regular bool // a regular field came: no pseudo field may follow
	pseudo  map[string]string
	header  Header
	fault   string // malformed, RFC 9113 section 8.1.1
}

func (b *headerBlock) reset() { *b = headerBlock{limit: b.limit} }

func (b *headerBlock) tooLarge() bool { return b.size > b.limit }

// add takes one field from the decoder. What goes beyond the limit is decoded, for the decoder's table must stay
// in step, but not kept.
func (b *headerBlock) add(f hpack.HeaderField) {
	b.size += int(f.Size())
	b.count++
	if b.tooLarge() || b.fault != "" {
		return
	}
	if f.IsPseudo() {
		b.addPseudo(f)
		return
	}
	b.regular = true
	switch f.Name {
	case "baggage":
		join(&b.header.Baggage, f.Value)
	case "forwarded":
		join(&b.header.Forwarded, f.Value)
	case "traceparent":
		b.header.TraceParent = f.Value
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		b.fault = "field of a connection: " + f.Name
	default:
		b.header.Other = append(b.header.Other, Field{f.Name, f.Value})
	}
	if !validName(f.Name) || !validValue(f.Value) {
		b.fault = "invalid field"
	}
}

func (b *headerBlock) addPseudo(f hpack.HeaderField) {
	switch _, twice := b.pseudo[f.Name]; {
	case b.regular:
		b.fault = "pseudo field behind others"
	case twice:
		b.fault = "pseudo field twice"
	case !validValue(f.Value):
		b.fault = "invalid pseudo field"
	default:
		if b.pseudo == nil {
			b.pseudo = map[string]string{}
		}
		b.pseudo[f.Name] = f.Value
	}
}

// only reports whether no pseudo fields but these are there.
func (b *headerBlock) only(names ...string) bool {
	n := 0
	for _, name := range names {
		if _, ok := b.pseudo[name]; ok {
			n++
		}
	}
	return n == len(b.pseudo)
}

func join(to *string, value string) {
	if *to != "" {
		value = *to + "," + value
	}
	*to = value
}

// validName: RFC 9113 section 8.2.1.
func validName(name string) bool {
	if name == "" {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || c == ':' || c >= 'A' && c <= 'Z' {
			return false
		}
	}
	return true
}

// validValue: RFC 9110 section 5.5, no control characters and no blanks around.
func validValue(v string) bool {
	for i := range len(v) {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return v == "" || !blank(v[0]) && !blank(v[len(v)-1])
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

// encode writes a header block; mu is held until the block stands in pending, for the peer's decoder sees blocks
// in the order of the wire. Fields that differ with each connection stay out of the table.
func (c *conn) encode(pseudo []Field, h *Header) []byte {
	c.block.Reset()
	put := func(name, value string, unique bool) {
		if value != "" {
			_ = c.encoder.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: unique})
		}
	}
	for _, f := range pseudo {
		put(f.Name, f.Value, false)
	}
	put("baggage", h.Baggage, false)
	put("forwarded", h.Forwarded, true)
	put("traceparent", h.TraceParent, true)
	for _, f := range h.Other {
		put(f.Name, f.Value, true)
	}
	return c.block.Bytes()
}

func (h *Header) size() int {
	n := len(h.Baggage) + len(h.Forwarded) + len(h.TraceParent)
	for _, f := range h.Other {
		n += len(f.Name) + len(f.Value) + 32
	}
	return n + 256
}

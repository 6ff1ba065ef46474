// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/warren-mesh/warren/tests/packets"
)

// Traffic is what was seen of all connections from one address to one port of another.
type Traffic struct {
	Client, Server string
	Port           uint16
	Connections    int
	Sent, Answered int // bytes of payload, without what was sent twice
	Records        int // TLS records, in both directions
	Plain          int // directions that hold anything else
	First          []byte
	Carried        map[string]int // marker to how many connections hold it
}

// Is describes the bytes.
func (t *Traffic) Is() string {
	switch {
	case t.Plain > 0:
		return "PLAINTEXT"
	case t.Records > 0:
		return fmt.Sprintf("TLS, nothing but its records (%d)", t.Records)
	}
	return "no payload"
}

// Summarize adds a capture's connections up, by client, server and the server's port. name maps addresses to names.
func Summarize(c *packets.Capture, name func(netip.Addr) string, markers ...string) []Traffic {
	var out []Traffic
	for _, f := range c.Flows() {
		if f.Source.Port() < f.Destination.Port() { // towards the client, whose port is out of the ephemeral range
			continue
		}
		client, server, port := name(f.Source.Addr()), name(f.Destination.Addr()), f.Destination.Port()
		i := slices.IndexFunc(out, func(t Traffic) bool { return t.Client == client && t.Server == server && t.Port == port })
		if i < 0 {
			i = len(out)
			out = append(out, Traffic{Client: client, Server: server, Port: port, Carried: map[string]int{}})
		}
		out[i].add(c.Bytes(f), c.Bytes(packets.Flow{Source: f.Destination, Destination: f.Source}), markers)
	}
	slices.SortStableFunc(out, func(a, b Traffic) int {
		return cmp.Or(cmp.Compare(order(a.Client), order(b.Client)), cmp.Compare(a.Server, b.Server), cmp.Compare(a.Port, b.Port))
	})
	return out
}

func (t *Traffic) add(there, back []byte, markers []string) {
	t.Connections++
	t.Sent += len(there)
	t.Answered += len(back)
	if len(t.First) == 0 {
		t.First = there[:min(len(there), 24)]
	}
	for _, b := range [][]byte{there, back} {
		n, err := packets.TLSRecords(b)
		if err != nil {
			t.Plain++
			continue
		}
		t.Records += n
	}
	for _, m := range markers {
		if bytes.Contains(there, []byte(m)) || bytes.Contains(back, []byte(m)) {
			t.Carried[m]++
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// entry is one line of an access log, or several that tell the same but for their numbers.
type entry struct {
	Node, Direction     string
	Source, Destination string // workloads
	SourceID, DestID    string // SPIFFE IDs; "" where none was proven
	Reason, Error       string
	Connections         int
	BytesIn, BytesOut   uint64 // received and sent, as the reporting ztunnel sees it
	policy, service     string
}

// mutual says whether both ends proved who they are.
func (e *entry) mutual() bool { return e.SourceID != "" && e.DestID != "" }

// parseEntry reads one line: "time level access message key=value ...". Lines of another kind are not ok.
func parseEntry(line string) (entry, bool) {
	_, rest, ok := strings.Cut(strings.TrimSpace(line), " access connection complete ")
	if !ok {
		return entry{}, false
	}
	f := fields(rest)
	e := entry{
		Direction: f["direction"], Source: f["src.workload"], Destination: f["dst.workload"],
		SourceID: f["src.identity"], DestID: f["dst.identity"],
		Reason: f["reason"], Error: f["error"], Connections: 1, policy: f["policy"], service: f["dst.service"],
	}
	e.BytesIn, _ = strconv.ParseUint(f["bytes_recv"], 10, 64)
	e.BytesOut, _ = strconv.ParseUint(f["bytes_sent"], 10, 64)
	return e, e.Direction != ""
}

// fields parts key=value pairs, whose values may be quoted as in Go.
func fields(s string) map[string]string {
	out := map[string]string{}
	for s != "" {
		key, rest, ok := strings.Cut(s, "=")
		if !ok {
			break
		}
		if quoted, err := strconv.QuotedPrefix(rest); err == nil {
			value, _ := strconv.Unquote(quoted)
			out[key], s = value, strings.TrimPrefix(rest[len(quoted):], " ")
			continue
		}
		out[key], s, _ = strings.Cut(rest, " ")
	}
	return out
}

// parseLog reads a node's log.
func parseLog(node, text string) []entry {
	var out []entry
	for line := range strings.Lines(text) {
		if e, ok := parseEntry(line); ok && strings.HasSuffix(line, "\n") {
			e.Node = node
			out = append(out, e)
		}
	}
	return out
}

// grouped adds up the entries that tell the same, servers' side first, in a stable order.
func grouped(all []entry) []entry {
	var out []entry
	for _, e := range all {
		i := slices.IndexFunc(out, func(o entry) bool {
			return o.Node == e.Node && o.Direction == e.Direction && o.Source == e.Source && o.Destination == e.Destination &&
				o.SourceID == e.SourceID && o.DestID == e.DestID && o.Reason == e.Reason && o.policy == e.policy
		})
		if i < 0 {
			out = append(out, e)
			continue
		}
		out[i].Connections += e.Connections
		out[i].BytesIn += e.BytesIn
		out[i].BytesOut += e.BytesOut
	}
	slices.SortStableFunc(out, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.Direction, b.Direction), cmp.Compare(order(a.Source), order(b.Source)), cmp.Compare(a.Destination, b.Destination))
	})
	return out
}

// shop is who takes part, in the order in which a purchase passes them.
var shop = []string{"shopper", "legacy", "web", "cart", "inventory", "orders"}

// order sorts by that; whoever has no part in it comes last.
func order(workload string) int {
	if i := slices.Index(shop, workload); i >= 0 {
		return i
	}
	return len(shop)
}

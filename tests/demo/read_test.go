// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseEntry(t *testing.T) {
	const refused = `2026-11-24T07:16:02.515340Z error access connection complete src.addr=10.244.1.3:34378 src.workload=legacy src.namespace=default dst.addr=10.244.2.2:8080 dst.workload=web dst.namespace=shop direction=inbound bytes_sent=0 bytes_recv=7 duration=0ms reason=STRICT_MTLS policy=a/b error="10.244.1.3:34378: \"no\" mesh identity"` + "\n"
	e, ok := parseEntry(refused)
	want := entry{Direction: "inbound", Source: "legacy", Destination: "web", Reason: "STRICT_MTLS", Error: `10.244.1.3:34378: "no" mesh identity`, Connections: 1, BytesIn: 7, policy: "a/b"}
	if !ok || e != want {
		t.Errorf("got %+v, %v; want %+v", e, ok, want)
	}
	for _, line := range []string{"", "time=2026-11-24T07:16:00.160Z level=INFO msg=starting", strings.Replace(refused, "direction=inbound ", "", 1)} {
		if e, ok := parseEntry(line); ok {
			t.Errorf("%q was taken for %+v", line, e)
		}
	}
	if half := parseLog("a", refused+strings.TrimSuffix(refused, "\n")); len(half) != 1 {
		t.Errorf("read %d entries, want only the one whose line is complete", len(half))
	}
}

func TestMetricsSince(t *testing.T) {
	const before = "# HELP warren_connections_total x\nwarren_connections_total{reporter=\"source\",reason=\"TUNNEL\"} 2\nother{a=\"b\"} 1\n"
	after := before + "warren_connections_total{reason=\"SAME_NODE\",reporter=\"sour\\\"ce\"} 3\n"
	after = strings.Replace(after, "} 2", "} 5", 1)
	got := since(parseMetrics("a", before, "warren_"), parseMetrics("a", after, "warren_"))
	if len(got) != 2 {
		t.Fatalf("got %+v, want two series", got)
	}
	for _, s := range got {
		if s.Value != 3 {
			t.Errorf("%+v has grown by %v, want 3", s.Labels, s.Value)
		}
	}
}

// nodes are those of the pods.
var nodes = map[string]string{"shopper": "a", "web": "a", "cart": "b", "inventory": "a", "orders": "b", "legacy": "b"}

// shopLog is what the ztunnels would write of one part.
func shopLog(welcome bool) (log []entry, metrics []sample) {
	for _, x := range inside(welcome) {
		how := "TUNNEL"
		if nodes[x.client] == nodes[x.server] {
			how = "SAME_NODE"
		}
		e := entry{Source: x.client, Destination: x.server, SourceID: spiffe(x.client), DestID: spiffe(x.server), Connections: x.times}
		in, out := e, e
		in.Direction, in.Reason, in.BytesIn, in.BytesOut = "inbound", how, 10, 20
		out.Direction, out.Reason, out.BytesIn, out.BytesOut = "outbound", how, 20, 10
		log = append(log, in, out)
		metrics = append(metrics, sample{Name: "istio_tcp_connections_closed_total", Value: float64(x.times), Labels: map[string]string{
			"reporter": "destination", "source_workload": x.client, "destination_workload": x.server, "connection_security_policy": "mutual_tls"}})
	}
	legacy := entry{Source: "legacy", Destination: "web", Direction: "inbound", Reason: "INBOUND_PLAINTEXT", Connections: 1}
	if !welcome {
		legacy.Reason, legacy.Error = "STRICT_MTLS", "refused"
		metrics = append(metrics, sample{Name: "warren_connections_total", Value: 1, Labels: map[string]string{"reporter": "destination", "reason": "STRICT_MTLS"}})
	}
	return append(log, legacy), metrics
}

func good(welcome bool) *part {
	log, metrics := shopLog(welcome)
	p := &part{nodes: nodes, seen: true, entries: log, metrics: metrics, wire: []Traffic{
		{Client: "web", Server: "cart", Port: hbonePort, Connections: 1, Records: 9, Carried: map[string]int{}},
		{Client: "legacy", Server: "web", Port: 8080, Connections: 1, Plain: 1, Carried: map[string]int{LegacyCard: 1}},
	}}
	return p
}

// TestChecksBite shows that each thing that may go wrong fails the demo.
func TestChecksBite(t *testing.T) {
	for _, welcome := range []bool{true, false} {
		r := &report{}
		checkMesh(r, good(welcome), welcome)
		if len(r.failures) > 0 {
			t.Errorf("as it should be, welcome %v: %q", welcome, r.failures)
		}
	}
	tests := []struct {
		name    string
		welcome bool
		spoil   func(*part)
	}{
		{"the card on the wire", true, func(p *part) { p.wire[0].Carried[ShopperCard] = 1 }},
		{"plaintext beside TLS", true, func(p *part) { p.wire[0].Plain = 1 }},
		{"another port", true, func(p *part) { p.wire[0].Port = 8080 }},
		{"no tunnel seen", true, func(p *part) { p.wire = p.wire[1:] }},
		{"somebody else's identity", true, func(p *part) { p.entries[0].SourceID = spiffe("web") }},
		{"no identity", false, func(p *part) { p.entries[2].DestID = "" }},
		{"a connection too few", true, func(p *part) { p.entries[3].Connections-- }},
		{"bytes lost", true, func(p *part) { p.entries[0].BytesIn++ }},
		{"one closed without TLS", true, func(p *part) { p.metrics[0].Labels["connection_security_policy"] = "unknown" }},
		{"the client outside let in", false, func(p *part) { p.entries[len(p.entries)-1].Reason = "INBOUND_PLAINTEXT" }},
		{"the client outside answered", false, func(p *part) { p.wire[1].Answered = 1 }},
		{"the refusal not counted", false, func(p *part) { p.metrics = p.metrics[:len(p.metrics)-1] }},
		{"the client outside with an identity", true, func(p *part) { p.entries[len(p.entries)-1].SourceID = spiffe("web") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, r := good(tt.welcome), &report{}
			tt.spoil(p)
			checkMesh(r, p, tt.welcome)
			if len(r.failures) == 0 {
				t.Error("nobody noticed")
			}
		})
	}
}

func TestGrouped(t *testing.T) {
	e := entry{Node: "a", Direction: "inbound", Source: "web", Destination: "cart", Reason: "TUNNEL", Connections: 1, BytesIn: 2}
	other := e
	other.Reason = "STREAM_RESET"
	got := grouped([]entry{e, other, e})
	if len(got) != 2 || got[0].Connections != 2 || got[0].BytesIn != 4 || fmt.Sprint(got[1]) != fmt.Sprint(other) {
		t.Errorf("got %+v", got)
	}
}

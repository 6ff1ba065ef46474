// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"slices"
)

const (
	hbonePort   = 15008
	trustDomain = "cluster.local"
)

func spiffe(account string) string {
	return fmt.Sprintf("spiffe://%s/ns/%s/sa/%s", trustDomain, ShopNamespace, account)
}

// expected is a connection of the shop with the number of times it is made.
type expected struct {
	client, server string
	times          int
}

// inside are the connections between pods of the shop. With the client outside welcome, its purchase goes through too.
func inside(welcome bool) []expected {
	n := purchases
	if welcome {
		n++
	}
	return []expected{
		{"shopper", "web", purchases}, {"web", "cart", n}, {"web", "orders", n}, {"cart", "inventory", n},
	}
}

// inTheMesh says whether log and metrics tell of all connections already.
func inTheMesh(welcome bool) func(*part) bool {
	return func(p *part) bool {
		for _, x := range inside(welcome) {
			for _, direction := range []string{"inbound", "outbound"} {
				if e, _ := p.entry(direction, x.client, x.server); e.Connections < x.times {
					return false
				}
			}
			if p.closed(x.client, x.server, "mutual_tls") < float64(x.times) {
				return false
			}
		}
		e, _ := p.entry("inbound", "legacy", "web")
		for _, t := range p.wire {
			if t.Client == "legacy" && e.Connections < t.Connections {
				return false
			}
		}
		return e.Connections > 0 && p.metric("warren_connections_total", map[string]string{"reporter": "destination", "reason": e.Reason}) >= float64(e.Connections)
	}
}

func (p *part) closed(client, server, security string) float64 {
	return p.metric("istio_tcp_connections_closed_total", map[string]string{
		"reporter": "destination", "source_workload": client, "destination_workload": server, "connection_security_policy": security,
	})
}

// checkMesh compares what was read with what the invariants promise.
func checkMesh(r *report, p *part, welcome bool) {
	for _, x := range inside(welcome) {
		checkInside(r, p, x)
	}
	if p.seen {
		checkWire(r, p, welcome)
	}
	e, ok := p.entry("inbound", "legacy", "web")
	r.check("the access log tells of the client outside, without an identity", ok && e.SourceID == "")
	if welcome {
		r.check("the client outside was let in once, counted INBOUND_PLAINTEXT", e.Connections == 1 && e.Reason == "INBOUND_PLAINTEXT")
		return
	}
	r.check("the client outside was refused with STRICT_MTLS", e.Reason == "STRICT_MTLS" && e.Error != "")
	// A reset may come so early that the client takes it for a failed connect, and tries the service's other address.
	refused := p.metric("warren_connections_total", map[string]string{"reporter": "destination", "reason": "STRICT_MTLS"})
	r.check("the metric counts the refusals in the log", refused >= 1 && refused == float64(e.Connections))
}

// checkWire wants TLS between pods of the shop, and nothing secret in the packets but what the client outside gives away.
func checkWire(r *report, p *part, welcome bool) {
	r.check("the shopper's card number is nowhere in the packets between the nodes", p.carries(ShopperCard) == 0)
	for _, t := range p.wire {
		switch {
		case shopPod(t.Client) && shopPod(t.Server):
			r.check(fmt.Sprintf("on the wire %s to %s is TLS on port %d", t.Client, t.Server, hbonePort), t.Port == hbonePort && t.Records > 0 && t.Plain == 0)
		case t.Client == "legacy" && !welcome:
			r.check("the client outside got no byte of an answer", t.Answered == 0)
		}
	}
	r.check("tunnels were seen on the wire", p.tunnels() > 0)
	if welcome {
		r.check("only the client outside sent its card number in plaintext", p.carries(LegacyCard) == 1)
	}
}

// checkInside wants both ends' logs to tell of the connection with both identities, and the metric to call it mutual TLS.
func checkInside(r *report, p *part, x expected) {
	how := "TUNNEL"
	if p.nodes[x.client] == p.nodes[x.server] {
		how = "SAME_NODE"
	}
	in, _ := p.entry("inbound", x.client, x.server)
	out, _ := p.entry("outbound", x.client, x.server)
	what := x.client + " to " + x.server
	for _, e := range []entry{in, out} {
		r.check(fmt.Sprintf("the %s access log tells of %d connections from %s with both identities", e.Direction, x.times, what),
			e.Connections == x.times && e.SourceID == spiffe(x.client) && e.DestID == spiffe(x.server) && e.Error == "")
	}
	r.check("the client's ztunnel decided "+how+" for "+what, out.Reason == how)
	r.check("the server's ztunnel took "+what+" as "+how, in.Reason == how)
	r.check("both ends counted the same bytes from "+what, in.BytesIn == out.BytesOut && in.BytesOut == out.BytesIn && in.BytesIn > 0)
	r.check("the metrics call all connections from "+what+" mutual TLS",
		p.closed(x.client, x.server, "mutual_tls") == float64(x.times) && p.closed(x.client, x.server, "unknown") == 0)
}

// shopPod says whether a name is that of a pod of the shop.
func shopPod(name string) bool { return name != "legacy" && slices.Contains(shop, name) }

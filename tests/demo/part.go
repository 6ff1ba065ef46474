// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"github.com/warren-mesh/warren/tests/packets"
)

// toldWithin is how long the mesh may take to write down what it did: the data path never waits for that.
const toldWithin = 5 * time.Second

// part is what the mesh and the wire say of a stretch of time.
type part struct {
	d       *Demo
	nodes   map[string]string // of the pods, by name
	seen    bool              // whether packets between the nodes are
	capture *packets.Capture
	logged  map[string]int // bytes of each node's log before
	scraped []sample
	counted []sample // the kernel's

	entries []entry
	metrics []sample
	kernel  []sample
	wire    []Traffic
}

// begin starts to listen.
func (d *Demo) begin() *part {
	p := &part{d: d, nodes: map[string]string{}, logged: map[string]int{}}
	for _, pod := range d.Pods() {
		p.nodes[pod.Name] = pod.Node
	}
	for _, n := range d.Nodes() {
		p.logged[n.Name()] = len(d.log(n))
	}
	p.scraped, p.counted = d.scrape(), d.kernelCounters()
	p.capture = d.Capture()
	p.seen = p.capture != nil
	return p
}

// end reads everything, again until told is satisfied or toldWithin is over: what is missing then is for the checks to say.
func (p *part) end(told func(*part) bool) {
	if p.seen {
		p.capture.Stop()
		if err := p.capture.Err(); err != nil {
			p.d.t.Fatalf("capture packets: %v", err)
		}
		p.wire = Summarize(p.capture, p.d.name, ShopperCard, LegacyCard)
		p.wire = slices.DeleteFunc(p.wire, func(t Traffic) bool { return !slices.Contains(shop, t.Client) || !slices.Contains(shop, t.Server) })
	}
	for end := time.Now().Add(toldWithin); ; time.Sleep(10 * time.Millisecond) {
		p.read()
		if told == nil || told(p) || time.Now().After(end) {
			return
		}
	}
}

func (p *part) read() {
	p.entries = nil
	for _, n := range p.d.Nodes() {
		p.entries = append(p.entries, parseLog(n.Name(), p.d.log(n)[p.logged[n.Name()]:])...)
	}
	p.entries = slices.DeleteFunc(p.entries, func(e entry) bool { return !slices.Contains(shop, e.Source) || !slices.Contains(shop, e.Destination) })
	p.entries = grouped(p.entries)
	p.metrics = since(p.scraped, p.d.scrape())
	p.kernel = since(p.counted, p.d.kernelCounters())
}

// scrape reads the ztunnels' connection metrics.
func (d *Demo) scrape() []sample {
	var out []sample
	for _, n := range d.Nodes() {
		body, err := n.Ztunnel(d.ctx, "http://localhost:15020/metrics")
		if err != nil {
			d.t.Fatalf("metrics of node %s's ztunnel: %v", n.Name(), err)
		}
		out = append(out, parseMetrics(n.Name(), body, "istio_tcp_", "warren_connections_total")...)
	}
	return out
}

// kernelCounters reads what the kernel programs counted, through the agents.
func (d *Demo) kernelCounters() []sample {
	var out []sample
	for _, n := range d.Nodes() {
		var stats struct{ Reasons map[string]float64 }
		d.Await("the kernel counters of node "+n.Name(), func() bool { // a busy broker may not answer at once
			body, err := n.Agent(d.ctx, "http://localhost:15000/debug/bpf")
			return err == nil && json.Unmarshal([]byte(body), &stats) == nil
		})
		for word, v := range stats.Reasons {
			out = append(out, sample{Node: n.Name(), Name: "kernel", Labels: map[string]string{"reason": word}, Value: v})
		}
	}
	return out
}

// name is the pod's that has the address, from the objects.
func (d *Demo) name(a netip.Addr) string {
	for _, p := range d.Pods() {
		if slices.Contains(p.Addresses, a) {
			return p.Name
		}
	}
	return a.String()
}

func (d *Demo) log(n Node) string {
	text, err := n.Log(d.ctx)
	if err != nil {
		d.t.Fatalf("the log of node %s's ztunnel: %v", n.Name(), err)
	}
	return text
}

// entry finds the access log's entries that fit.
func (p *part) entry(direction, source, destination string) (out entry, found bool) {
	for _, e := range p.entries {
		if e.Direction == direction && e.Source == source && e.Destination == destination {
			if found {
				return entry{}, false // two that differ: nothing that a check may rely on
			}
			out, found = e, true
		}
	}
	return out, found
}

// metric adds up the series that fit.
func (p *part) metric(name string, labels map[string]string) float64 {
	sum := 0.0
next:
	for _, s := range p.metrics {
		if s.Name != name {
			continue
		}
		for k, v := range labels {
			if s.Labels[k] != v {
				continue next
			}
		}
		sum += s.Value
	}
	return sum
}

// carries counts the connections on the wire in which the marker can be read.
func (p *part) carries(marker string) int {
	n := 0
	for _, t := range p.wire {
		n += t.Carried[marker]
	}
	return n
}

// tunnels counts the connections on the wire to the HBONE port.
func (p *part) tunnels() int {
	n := 0
	for _, t := range p.wire {
		if t.Port == hbonePort {
			n += t.Connections
		}
	}
	return n
}

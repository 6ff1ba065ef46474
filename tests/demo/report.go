// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// report prints what was read. Every line begins with its source.
type report struct {
	out      io.Writer
	bed      Bed
	checks   int
	failures []string
}

func (r *report) line(source, format string, args ...any) {
	fmt.Fprintf(r.out, "  %-*s %s\n", r.width(), source, strings.TrimRight(fmt.Sprintf(format, args...), " "))
}

// width is that of the longest source.
func (r *report) width() int {
	longest := 0
	for _, n := range r.bed.Nodes() {
		longest = max(longest, len("metrics "+n.Name()))
	}
	return longest
}

func (r *report) section(title string) { fmt.Fprintf(r.out, "\n%s\n\n", title) }

// check notes what was looked at, and what of it was not so.
func (r *report) check(what string, ok bool) {
	r.checks++
	if !ok {
		r.failures = append(r.failures, what)
	}
}

// legend says where each kind of line is read.
func (r *report) legend() {
	fmt.Fprint(r.out, "\nEach line of the report begins with where it was read:\n\n")
	for _, s := range r.bed.Sources() {
		r.line(s.Prefix, "%s", s.From)
	}
	fmt.Fprintln(r.out)
}

// statuses prints what is published of the shop's pods and the client outside.
func (r *report) statuses(d *Demo) {
	for _, p := range d.Pods() {
		published, err := d.Published(d.ctx, p)
		if err != nil {
			d.t.Fatalf("what is published of %s: %v", p, err)
		}
		if published == "" {
			published = "nothing published"
		}
		r.line("status", "%-15s node %s  captured: %s", p, p.Node, published)
	}
}

// whole prints all sources of a part.
func (r *report) whole(p *part) {
	r.log(p)
	r.metrics(p)
	r.kernel(p)
	r.wire(p)
}

// wire prints what was seen between the nodes.
func (r *report) wire(p *part) {
	if !p.seen {
		return
	}
	for _, t := range p.wire {
		readable := ""
		for _, m := range []struct{ whose, card string }{{"shopper's", ShopperCard}, {"legacy's", LegacyCard}} {
			if n := t.Carried[m.card]; n > 0 {
				readable += fmt.Sprintf("; %s card readable in %d", m.whose, n)
			}
		}
		r.line("wire", "%s %5d B there %5d B back  %s%s", pair(t.Client, fmt.Sprintf("%s:%d", t.Server, t.Port), t.Connections), t.Sent, t.Answered, t.Is(), readable)
	}
	r.line("wire", "the shopper's card number, %s, is readable in %s", ShopperCard, plural(p.carries(ShopperCard)))
}

// log prints who talked to whom by which identity, as the servers' ztunnels wrote it down, what was refused, and what
// the clients' ztunnels decided.
func (r *report) log(p *part) {
	for _, e := range p.entries {
		source := "log " + e.Node
		if e.Direction == "outbound" {
			r.line(source, "%s the client's ztunnel decided %s for %s", pair(e.Source, e.Destination, e.Connections), e.Reason, e.service)
			continue
		}
		r.line(source, "%s %5d B in    %5d B out   %s", pair(e.Source, e.Destination, e.Connections), e.BytesIn, e.BytesOut, e.Reason)
		switch {
		case e.Error != "":
			r.line(source, "    REFUSED: %s (policy %s)", e.Error, e.policy)
		case e.mutual():
			r.line(source, "    %s -> %s", e.SourceID, e.DestID)
		default:
			r.line(source, "    the client proved no identity")
		}
	}
	for _, n := range p.d.Nodes() {
		if !slices.ContainsFunc(p.entries, func(e entry) bool { return e.Node == n.Name() }) {
			r.line("log "+n.Name(), "no connection")
		}
	}
}

// metrics prints what the servers' ztunnels counted.
func (r *report) metrics(p *part) {
	for _, s := range p.metrics {
		l := s.Labels
		switch {
		case l["reporter"] != "destination":
		case s.Name == "istio_tcp_connections_opened_total":
			of := func(name string) float64 {
				return p.metric(name, map[string]string{"reporter": "destination", "source_workload": l["source_workload"],
					"destination_workload": l["destination_workload"], "connection_security_policy": l["connection_security_policy"]})
			}
			encrypted := "encrypted: " + l["connection_security_policy"]
			if l["connection_security_policy"] != "mutual_tls" {
				encrypted = "NOT encrypted"
			}
			r.line("metrics "+s.Node, "%s %5.0f B in    %5.0f B out   %s", pair(l["source_workload"], l["destination_workload"], int(s.Value)),
				of("istio_tcp_received_bytes_total"), of("istio_tcp_sent_bytes_total"), encrypted)
		case s.Name == "istio_tcp_connections_failed_total":
			r.line("metrics "+s.Node, "%s REFUSED, response_flags %s", pair(l["source_workload"], l["destination_workload"], int(s.Value)), l["response_flags"])
		case s.Name == "warren_connections_total":
			r.line("metrics "+s.Node, "%-26s %-14s server's side, by reason", l["reason"], plural(int(s.Value)))
		}
	}
}

// kernel prints what the kernel programs counted, but for the ordinary.
func (r *report) kernel(p *part) {
	for _, s := range p.kernel {
		if word := s.Labels["reason"]; word != "NONE" {
			r.line("kernel "+s.Node, "%-26s %.0f", word, s.Value)
		}
	}
}

// pair is the columns that connections begin with.
func pair(client, server string, n int) string {
	return fmt.Sprintf("%-26s %-14s", client+" -> "+server, plural(n))
}

func plural(n int) string {
	if n == 1 {
		return "1 connection"
	}
	return fmt.Sprintf("%d connections", n)
}

// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/warren-mesh/warren/mesh/reason"
)

// WriteText writes the answer for people: the verdict, then how it came about.
func (a *Answer) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s -> %s: %s\n\n", a.Source.label(), a.Destination.label(), a.headline())
	line(&b, "capture", "%s", a.Capture.Text)
	if a.Destination.Service != "" {
		line(&b, "service", "%s at %s", a.Destination.Service, a.Destination.Address)
	}
	for i, e := range a.Endpoints {
		mark := "-"
		if e.Chosen {
			mark = "+"
		}
		line(&b, first(i, "endpoints"), "%s %s  %s  %s", mark, e.Workload, cmp.Or(e.Target, "no address"), e.Standing)
	}
	for _, o := range a.Outcomes {
		b.WriteByte('\n')
		o.write(&b, a.Capture)
	}
	if a.Omitted > 0 {
		fmt.Fprintf(&b, "\n%d more endpoints are not shown\n", a.Omitted)
	}
	fmt.Fprintf(&b, "\nanswered by the ztunnel of node %s from snapshot %d\n", a.Node, a.Snapshot)
	_, err := io.WriteString(w, b.String())
	return err
}

func (a *Answer) headline() string {
	if a.Verdict == Depends {
		return "depends on the endpoint"
	}
	return headline(a.Verdict, a.Reason, a.ReasonText, a.Policy)
}

func headline(v Verdict, r reason.Reason, text, policy string) string {
	s := string(v)
	if v == Waits {
		s += " 5 s at most, then refused"
	}
	if r != reason.None {
		s += ", " + r.String() + ": " + cmp.Or(text, r.Text())
	}
	if policy != "" {
		s += " (policy " + policy + ")"
	}
	return s
}

func (e *End) label() string {
	name := e.Workload
	if name == "" && len(e.Addresses) > 0 {
		return e.Addresses[0].String() + " (no workload of the mesh)"
	}
	if e.Node != "" {
		name += " on " + e.Node
	}
	return name
}

func (t *Target) label() string {
	if t.Asked == t.Address.Addr().String() {
		return t.Address.String()
	}
	return fmt.Sprintf("%s:%d", t.Asked, t.Port)
}

func (o *Outcome) write(b *strings.Builder, told Capture) {
	where := o.Endpoint
	if o.Target != "" {
		where = strings.TrimSpace(where + " at " + o.Target)
	}
	fmt.Fprintf(b, "%s: %s\n", cmp.Or(where, "no endpoint"), headline(o.Verdict, o.Reason, o.ReasonText, o.Policy))
	if o.Capture != told {
		line(b, "capture", "%s", o.Capture.Text)
	}
	if c := o.Client; c != nil {
		c.write(b)
	}
	if s := o.Server; s != nil {
		s.write(b)
	}
	if o.Note != "" {
		line(b, "note", "%s", o.Note)
	}
}

func (c *Client) write(b *strings.Builder) {
	for i, s := range c.Steps {
		line(b, first(i, "client"), "%s", s)
	}
	switch {
	case c.Waypoint != "":
		line(b, "", "by waypoint %s", c.Waypoint)
	case c.Need != "":
		line(b, "", "waits for %s", c.Need)
	}
	switch {
	case c.Witness != "":
		line(b, "", "inside this ztunnel to %s, without TLS; witness to %s", c.Upstream, c.Witness)
		line(b, "", "expects %s", strings.Join(c.Expected, ", "))
	case c.Action == "tunnel":
		line(b, "", "tunnel to %s, CONNECT %s", c.Upstream, c.Authority)
		line(b, "", "expects %s", strings.Join(c.Expected, ", "))
	case c.Action == "passthrough":
		line(b, "", "plain TCP to %s", c.Upstream)
	}
	line(b, "", "its access log says %s", c.Logged)
}

func (s *Server) write(b *strings.Builder) {
	who := "no identity: plaintext"
	if !s.Peer.IsZero() {
		who = s.Peer.String()
	}
	line(b, "server", "%s from %s, %s", s.Protocol, s.Source, who)
	if s.Detail != "" {
		line(b, "", "%s", s.Detail)
	}
	for _, p := range s.Policies {
		p.write(b)
	}
	switch {
	case s.Omitted > 0:
		line(b, "", "%d more policies do not match", s.Omitted)
	case len(s.Policies) == 0:
		line(b, "", "no policy applies")
	}
	if s.Waits != "" {
		line(b, "", "waits for %s", s.Waits)
	}
	line(b, "", "its access log says %s", s.Reason)
}

func (p *Policy) write(b *strings.Builder) {
	kind := p.Action
	if !p.Enforced && kind != "AUDIT" {
		kind += " (dry run)"
	}
	said := "does not match"
	if p.Matched {
		said = fmt.Sprintf("rules[%d] matches: %s", p.Rule, p.Text)
	}
	mark := " "
	if p.Decides {
		mark = "*"
	}
	line(b, "", "%s %s %s, %s: %s", mark, kind, p.Name, p.Scope, said)
	if p.Matched {
		return
	}
	for _, m := range p.Misses {
		line(b, "", "      %s", m)
	}
}

func line(b *strings.Builder, head, format string, args ...any) {
	fmt.Fprintf(b, "  %-10s %s\n", head, fmt.Sprintf(format, args...))
}

func first(i int, head string) string {
	if i > 0 {
		return ""
	}
	return head
}

// SPDX-License-Identifier: Apache-2.0

package metrics

import "slices"

// field is a part of Labels and the labels that show it.
type field struct {
	names []string
	clear func(*Labels)
}

var fields = slices.Concat(
	[]field{
		{[]string{"reporter"}, func(l *Labels) { l.Reporter = "" }},
		{[]string{"destination_service"}, func(l *Labels) { l.ServiceHost = "" }},
		{[]string{"destination_service_namespace"}, func(l *Labels) { l.Service.Namespace = "" }},
		{[]string{"destination_service_name"}, func(l *Labels) { l.Service.Name = "" }},
		{[]string{"response_flags"}, func(l *Labels) { l.Reason = 0 }},
		{[]string{"connection_security_policy"}, func(l *Labels) { l.Mutual = false }},
	},
	peerFields("source", func(l *Labels) *Peer { return &l.Source }),
	peerFields("destination", func(l *Labels) *Peer { return &l.Destination }),
)

func peerFields(end string, of func(*Labels) *Peer) (out []field) {
	for _, f := range []struct {
		names []string
		part  func(*Peer) *string
	}{
		{[]string{"workload"}, func(p *Peer) *string { return &p.Workload }},
		{[]string{"canonical_service", "app"}, func(p *Peer) *string { return &p.CanonicalService }},
		{[]string{"canonical_revision", "version"}, func(p *Peer) *string { return &p.CanonicalRevision }},
		{[]string{"workload_namespace"}, func(p *Peer) *string { return &p.Namespace }},
		{[]string{"principal"}, func(p *Peer) *string { return &p.Principal }},
		{[]string{"cluster"}, func(p *Peer) *string { return &p.Cluster }},
		{[]string{"region"}, func(p *Peer) *string { return &p.Region }},
		{[]string{"zone"}, func(p *Peer) *string { return &p.Zone }},
	} {
		names := make([]string, 0, len(f.names))
		for _, n := range f.names {
			names = append(names, end+"_"+n)
		}
		out = append(out, field{names, func(l *Labels) { *f.part(of(l)) = "" }})
	}
	return out
}

// LabelNames are the labels of the connection metrics.
func LabelNames() []string { return slices.Clone(labelNames) }

// columns are the labels that are shown.
type columns struct {
	kept  []int // indices in labelNames, by name, which is the order Prometheus wants
	clear []func(*Labels)
}

// columnsWithout leaves out labels by name; a name that is no label's says nothing.
func columnsWithout(drop []string) columns {
	dropped := func(name string) bool { return slices.Contains(drop, name) }
	var c columns
	for i, name := range labelNames {
		if !dropped(name) {
			c.kept = append(c.kept, i)
		}
	}
	slices.SortFunc(c.kept, func(a, b int) int {
		if labelNames[a] < labelNames[b] {
			return -1
		}
		return 1
	})
	for _, f := range fields {
		if !slices.ContainsFunc(f.names, func(n string) bool { return !dropped(n) }) {
			c.clear = append(c.clear, f.clear)
		}
	}
	return c
}

// trim clears what is not shown, so that what looks equal is equal.
func (c *columns) trim(l Labels) Labels {
	if len(c.clear) == 0 {
		return l // which stays on the stack
	}
	return c.cleared(l)
}

func (c *columns) cleared(l Labels) Labels {
	for _, f := range c.clear {
		f(&l)
	}
	return l
}

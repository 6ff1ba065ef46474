// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/mesh/broker"
)

// part is one line of the status.
type part struct {
	Node    string `json:"node,omitempty"`
	Part    string `json:"part"`
	State   string `json:"state"`
	Version string `json:"version,omitempty"`
	Detail  string `json:"detail,omitempty"`

	pod bool // one of the mesh's pods, not one of Warren's
}

const (
	good  = "ok"
	mute  = "no answer"
	wrong = "attention"
)

func statusCommand(s *Sources) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "whether agent, broker and ztunnel of the node are well, and which pods are not captured",
		Long: `Asks the agent, by it the broker, and ztunnel; in a cluster, those of every node, and control. The exit status is 1 when one
of them does not answer or says that something is wrong; an enrolled pod that is not captured is listed.`,
		Args: cobra.NoArgs, ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.inCluster()
			if err != nil {
				return err
			}
			var parts []part
			head := "PART, STATE, DETAIL"
			if c == nil {
				parts = s.status(cmd.Context())
			} else if parts, err = s.clusterStatus(cmd.Context(), c); err != nil {
				return err
			} else {
				head = "NODE, PART, VERSION, STATE, DETAIL"
			}
			var rows [][]string
			well := true
			for _, p := range parts {
				row := []string{p.Part, p.State, p.Detail}
				if c != nil {
					row = []string{p.Node, p.Part, p.Version, p.State, p.Detail}
				}
				rows = append(rows, row)
				well = well && p.State == good
			}
			if err := s.print(cmd.OutOrStdout(), parts, head, rows); err != nil {
				return err
			}
			if !well {
				return errors.New("not everything is well")
			}
			return nil
		},
	}
}

func (s *Sources) status(ctx context.Context) []part {
	var out []part
	pods, err := s.pods(ctx)
	if !errors.Is(err, errNoAgent) {
		out = append(out, s.agentStatus(ctx, pods, err), s.brokerStatus(ctx))
	}
	out = append(out, s.ztunnelStatus(ctx))
	for _, p := range pods {
		if p.Enrolled && p.State != "captured" {
			out = append(out, part{Part: "pod " + p.Namespace + "/" + p.Name, State: cmp.Or(p.State, "unknown"), Detail: cmp.Or(p.Broker, p.Ztunnel), pod: true})
		}
	}
	return out
}

// pod is a line of the agent's /debug/pods.
type pod struct {
	Namespace, Name, State, Broker, Ztunnel string
	Enrolled                                bool
}

func (s *Sources) pods(ctx context.Context) (out []pod, err error) {
	return out, s.agentJSON(ctx, "/debug/pods", &out)
}

func (s *Sources) agentStatus(ctx context.Context, pods []pod, err error) part {
	if err != nil {
		return part{Part: "agent", State: mute, Detail: err.Error()}
	}
	var problems []struct{ Object, Error string }
	if err := s.agentJSON(ctx, "/debug/problems", &problems); err != nil {
		return part{Part: "agent", State: mute, Detail: err.Error()}
	}
	enrolled, captured := 0, 0
	for _, p := range pods {
		if p.Enrolled {
			enrolled++
			if p.State == "captured" {
				captured++
			}
		}
	}
	p := part{Part: "agent", State: good, Detail: fmt.Sprintf("%d of %d enrolled pods captured", captured, enrolled)}
	var from objectSource
	if err := s.agentJSON(ctx, "/debug/objects", &from); err != nil {
		return part{Part: "agent", State: mute, Detail: err.Error()}
	}
	if missing := from.missing(); missing != "" {
		p.State = wrong
		p.Detail += "; " + missing
	}
	if len(problems) > 0 {
		p.State = wrong
		p.Detail += fmt.Sprintf("; %d objects refused, first %s: %s", len(problems), problems[0].Object, problems[0].Error)
	}
	return p
}

// objectSource is what matters here of the agent's /debug/objects.
type objectSource struct {
	Stale           bool
	SnapshotWritten time.Time
	Kinds           []struct {
		Kind, Error string
		Contact     time.Time
	}
}

// missing says that the agent does not hear of changes, and what it goes by; "" when it hears of all.
func (o objectSource) missing() string {
	failing, first := 0, ""
	var contact time.Time
	for _, k := range o.Kinds {
		if k.Error != "" {
			failing, first = failing+1, cmp.Or(first, k.Kind+": "+k.Error)
		}
		if k.Contact.After(contact) {
			contact = k.Contact
		}
	}
	switch {
	case o.Stale:
		return fmt.Sprintf("serves a stale snapshot, written at %s: the API server is away (%s)", o.SnapshotWritten.Format(time.RFC3339), first)
	case failing > 0:
		return fmt.Sprintf("%d of %d kinds of objects can't be watched, last contact at %s (%s)", failing, len(o.Kinds), contact.Format(time.RFC3339), first)
	}
	return ""
}

func (s *Sources) brokerStatus(ctx context.Context) part {
	var st broker.Stats
	if err := s.agentJSON(ctx, "/debug/bpf", &st); err != nil {
		return part{Part: "broker", State: mute, Detail: err.Error()}
	}
	p := part{Part: "broker", State: good, Detail: fmt.Sprintf("holds %d pods; kernel programs verified at %s, %d repairs", len(st.Pods), st.Verified.Format(time.RFC3339), st.Repairs)}
	if len(st.Drifts) > 0 {
		p.State = wrong
		p.Detail += fmt.Sprintf("; %d attached wrongly, first %s", len(st.Drifts), st.Drifts[0])
	}
	if len(st.Failures) > 0 {
		p.State = wrong
		p.Detail += "; could not " + st.Failures[0]
	}
	if st.Ztunnels == 0 {
		p.State = wrong
		p.Detail += "; no ztunnel is connected"
	}
	return p
}

func (s *Sources) ztunnelStatus(ctx context.Context) part {
	d, err := s.dump(ctx)
	if err != nil {
		return part{Part: "ztunnel", State: mute, Detail: err.Error()}
	}
	available, live := 0, 0
	var expiry time.Time // of the first certificate
	for _, c := range d.Certificates {
		if len(c.Chain) > 0 {
			available++
			if end := c.Chain[0].NotAfter; expiry.IsZero() || end.Before(expiry) {
				expiry = end
			}
		}
	}
	for _, w := range d.WorkloadState {
		live += len(w.Connections.Inbound) + len(w.Connections.Outbound)
	}
	p := part{Part: "ztunnel", State: good, Version: d.Version["version"], Detail: fmt.Sprintf("node %s, snapshot %d, %d of %d certificates, %d pods, %d live connections",
		d.Version["node"], d.Snapshot.Version, available, len(d.Certificates), len(d.WorkloadState), live)}
	if !expiry.IsZero() {
		p.Detail += ", first certificate expires at " + expiry.Format(time.RFC3339)
	}
	if available < len(d.Certificates) || !expiry.IsZero() && time.Now().After(expiry) {
		p.State = wrong
	}
	return p
}

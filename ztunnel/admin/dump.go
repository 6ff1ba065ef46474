// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"net/http"
	"strings"
	"time"

	"github.com/warren-mesh/warren/mesh/dump"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/identity"
	"github.com/warren-mesh/warren/ztunnel/proxy"
)

// configDump is /config_dump, in the shape of ambient's.
type configDump struct {
	dump.Snapshot
	StagedServices map[string]any           `json:"stagedServices"`
	StaticConfig   map[string]any           `json:"staticConfig"`
	Version        map[string]string        `json:"version"`
	Config         map[string]string        `json:"config"`
	Certificates   []certificate            `json:"certificates"`
	WorkloadState  map[string]workloadState `json:"workloadState"`
}

type certificate struct {
	Identity string            `json:"identity"`
	State    string            `json:"state"`
	Chain    []certificateInfo `json:"certChain"`
	Renew    time.Time         `json:"renewTime,omitzero"`
	Error    string            `json:"error,omitempty"`
}

type certificateInfo struct {
	Serial    string    `json:"serialNumber"`
	NotBefore time.Time `json:"validFrom"`
	NotAfter  time.Time `json:"expirationTime"`
}

type workloadState struct {
	State       string       `json:"state"` // Up, Pending or Draining
	Info        workloadInfo `json:"info"`
	Listeners   []string     `json:"listeners"`
	Connections connections  `json:"connections"`
}

type workloadInfo struct {
	Name           string `json:"name"`
	Namespace      string `json:"namespace"`
	TrustDomain    string `json:"trustDomain"`
	ServiceAccount string `json:"serviceAccount"`
}

type connections struct {
	Inbound  []connection `json:"inbound"`
	Outbound []connection `json:"outbound"`
}

type connection struct {
	ID          uint64        `json:"id"`
	Src         string        `json:"src"`
	OriginalDst string        `json:"originalDst"`
	ActualDst   string        `json:"actualDst"`
	Protocol    string        `json:"protocol"`
	Peer        string        `json:"peer,omitempty"`
	Reason      reason.Reason `json:"reason"`
	Open        string        `json:"open"`
	Established bool          `json:"established"`
}

func (s Sources) configDump(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, configDump{
		Snapshot: dump.Of(s.Snapshot()), StagedServices: map[string]any{}, StaticConfig: map[string]any{},
		Version: map[string]string{"version": s.Version, "node": s.Node}, Config: s.Settings,
		Certificates: certificates(s.Certificates()), WorkloadState: states(s.Pods()),
	})
}

func (s Sources) connections(w http.ResponseWriter, _ *http.Request) { writeJSON(w, states(s.Pods())) }

func certificates(in []identity.Info) []certificate {
	out := make([]certificate, 0, len(in))
	for _, i := range in {
		c := certificate{Identity: i.Identity.String(), State: string(i.State), Chain: []certificateInfo{}, Renew: i.Renew, Error: i.Error}
		if i.Serial != "" {
			c.Chain = append(c.Chain, certificateInfo{i.Serial, i.NotBefore, i.NotAfter})
		}
		out = append(out, c)
	}
	return out
}

func states(pods []proxy.PodInfo) map[string]workloadState {
	out := make(map[string]workloadState, len(pods))
	for _, p := range pods {
		state := "Up"
		switch {
		case p.Leaving:
			state = "Draining"
		case !p.Known || len(p.Listeners) == 0:
			state = "Pending"
		}
		out[p.UID] = workloadState{
			State: state, Listeners: append([]string{}, p.Listeners...),
			Info:        workloadInfo{p.Name.Name, p.Name.Namespace, p.Identity.TrustDomain, p.Identity.ServiceAccount},
			Connections: connections{convert(p.Inbound), convert(p.Outbound)},
		}
	}
	return out
}

func convert(in []proxy.ConnectionInfo) []connection {
	out := make([]connection, 0, len(in))
	for _, c := range in {
		addr := func(valid bool, s string) string {
			if !valid {
				return ""
			}
			return s
		}
		out = append(out, connection{
			ID: c.ID, Src: addr(c.Src.IsValid(), c.Src.String()), OriginalDst: addr(c.Target.IsValid(), c.Target.String()),
			ActualDst: addr(c.Dst.IsValid(), c.Dst.String()), Protocol: strings.ToUpper(c.Protocol), Peer: c.Peer, Reason: c.Reason,
			Open: c.Open.Round(time.Millisecond).String(), Established: c.Bound,
		})
	}
	return out
}

// SPDX-License-Identifier: Apache-2.0

// Package explain is the answer to "what becomes of a connection from here to there, and why": what
// GET /debug/explain sends, in JSON and as text. ztunnel/explain makes it.
package explain

import (
	"net/netip"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

// Verdict is how a connection ends up.
type Verdict string

const (
	// Allowed: the mesh carries it, or lets it pass by.
	Allowed Verdict = "allowed"
	// Refused: it is reset.
	Refused Verdict = "refused"
	// Waits: it is held for what is not known yet, 5 s at most, then refused.
	Waits Verdict = "waits"
	// Depends: on which endpoint is chosen.
	Depends Verdict = "depends"
)

// Answer is the whole of it, taken from one snapshot.
type Answer struct {
	Node     string    `json:"node"` // whose ztunnel answered
	Time     time.Time `json:"time"`
	Snapshot uint64    `json:"snapshotVersion"`

	Source      End    `json:"source"`
	Destination Target `json:"destination"`

	Verdict Verdict `json:"verdict"`
	// Reason, its text and Policy where all outcomes have the same.
	Reason     reason.Reason `json:"reason"`
	ReasonText string        `json:"reasonText,omitempty"` // where there is more to say than the table of reasons does
	Policy     string        `json:"policy,omitempty"`

	Capture  Capture   `json:"capture"` // of the first outcome
	Outcomes []Outcome `json:"outcomes"`
	// Endpoints are all that the service or its waypoint has, chosen or not.
	Endpoints []Endpoint `json:"endpoints,omitempty"`
	// Omitted counts outcomes that were left out of a long list.
	Omitted int `json:"omitted,omitempty"`
}

// End is one end of the connection.
type End struct {
	Workload  string        `json:"workload,omitempty"` // namespace/name; empty for an address that nobody claims
	UID       string        `json:"uid,omitempty"`
	PodUID    string        `json:"podUid,omitempty"`
	Addresses []netip.Addr  `json:"addresses"`
	Node      string        `json:"node,omitempty"`
	Identity  mesh.Identity `json:"identity,omitzero"`
	Capture   string        `json:"capture,omitempty"` // as mesh.Capture
	Why       string        `json:"captureReason,omitempty"`
	HostNet   bool          `json:"hostNetwork,omitempty"`
	// Listeners are those this ztunnel holds for the pod; absent where it serves no such pod.
	Listeners []string `json:"listeners,omitempty"`
}

// Target is what was asked for.
type Target struct {
	Asked    string         `json:"asked"`
	Port     uint16         `json:"port"`
	Address  netip.AddrPort `json:"address"` // the first, where a name has several
	Service  string         `json:"service,omitempty"`
	Hostname string         `json:"hostname,omitempty"`
}

// Capture is what the kernel programs do with the source's connect.
type Capture struct {
	Captured bool          `json:"captured"` // it goes to ztunnel
	Reason   reason.Reason `json:"reason"`
	Text     string        `json:"text"`
}

// Endpoint is one that was looked at.
type Endpoint struct {
	Workload string `json:"workload"`
	Target   string `json:"target,omitempty"`
	// Chosen: a connection may go there.
	Chosen   bool   `json:"chosen"`
	Standing string `json:"standing"` // why it may be chosen, or not
}

// Outcome is what becomes of the connection if this endpoint is chosen.
type Outcome struct {
	Endpoint string `json:"endpoint,omitempty"` // namespace/name; empty where there is none
	Target   string `json:"target,omitempty"`   // the application's address

	Verdict    Verdict       `json:"verdict"`
	Reason     reason.Reason `json:"reason"`
	ReasonText string        `json:"reasonText,omitempty"` // as in Answer
	Policy     string        `json:"policy,omitempty"`

	Capture Capture `json:"capture"`
	Client  *Client `json:"client,omitempty"` // absent where no ztunnel has a part on the client's side
	Server  *Server `json:"server,omitempty"` // likewise on the server's
	// Note is what else there is to say.
	Note string `json:"note,omitempty"`
}

// Client is the decision on the source's node.
type Client struct {
	Node     string        `json:"node,omitempty"`
	Action   string        `json:"action"` // tunnel, passthrough, refuse, wait
	Reason   reason.Reason `json:"reason"`
	Steps    []string      `json:"steps"`
	Upstream string        `json:"upstream,omitempty"`
	// Witness is set where the connection stays inside the ztunnel of both: what another one asks the network by.
	Witness string `json:"witness,omitempty"`
	// Authority and Expected: of a tunnel.
	Authority string   `json:"authority,omitempty"`
	Expected  []string `json:"expectedIdentities,omitempty"`
	Waypoint  string   `json:"waypoint,omitempty"`
	Need      string   `json:"waitsFor,omitempty"`
	// Logged is the reason in the client's access log.
	Logged reason.Reason `json:"logged"`
}

// Inside is the protocol of what never leaves the ztunnel of both ends.
const Inside = "in process"

// Server is the decision on the destination's node.
type Server struct {
	Node   string        `json:"node,omitempty"`
	Action string        `json:"action"`
	Reason reason.Reason `json:"reason"` // as in the server's access log
	// Protocol by which it arrives: HBONE, TCP, or Inside.
	Protocol string         `json:"protocol"`
	Peer     mesh.Identity  `json:"peer,omitzero"` // proven by its certificate
	Source   netip.Addr     `json:"source"`
	Target   netip.AddrPort `json:"target"`
	Detail   string         `json:"detail,omitempty"`
	Waits    string         `json:"waitsFor,omitempty"`
	Policies []Policy       `json:"policies"`
	// Omitted counts policies that do not match and were left out of a long list.
	Omitted int `json:"omittedPolicies,omitempty"`
}

// Policy is what became of one policy that applies to the server.
type Policy struct {
	Name   string `json:"name"`
	Action string `json:"action"`
	Scope  string `json:"scope"`
	// Matched: a rule does; Rule is its index and Text what it says.
	Matched bool   `json:"matched"`
	Rule    int    `json:"rule"`
	Text    string `json:"ruleText,omitempty"`
	// Misses tell why rules do not match.
	Misses   []string `json:"misses,omitempty"`
	Enforced bool     `json:"enforced"` // not AUDIT, not dry run
	Decides  bool     `json:"decides"`  // the outcome is this one's
}

// SPDX-License-Identifier: Apache-2.0

// Package route decides where a connection goes. Every function here is pure: it looks at one Snapshot and
// returns a Decision with a reason, or says what it would need to know (Need). The proxy waits and acts.
package route

import (
	"net/netip"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

// Action is what the proxy does with a connection.
type Action uint8

const (
	// Refuse resets the application's connection.
	Refuse Action = iota
	// Tunnel carries it by HBONE to Upstream.
	Tunnel
	// Passthrough carries it by plain TCP to Upstream.
	Passthrough
	// Wait holds it, unread, until the snapshot explains Need.
	Wait
)

var actionNames = [...]string{"refuse", "tunnel", "passthrough", "wait"}

func (a Action) String() string { return actionNames[a] }

// NeedWait is how long a connection is held for what the snapshot lacks.
const NeedWait = 5 * time.Second

// NeedKind says which table lacks an entry.
type NeedKind uint8

const (
	// NeedPod: the workload of a pod uid.
	NeedPod NeedKind = iota
	// NeedAddress: what has an address of the cluster.
	NeedAddress
	// NeedCapture: the capture state of a workload.
	NeedCapture
)

// Need is the key of what the snapshot must learn before a decision can be taken. An on-demand source
// subscribes to it; a source of everything merely waits.
type Need struct {
	Kind NeedKind
	Addr netip.Addr // NeedAddress
	UID  string     // NeedPod: the pod's uid; NeedCapture: the workload's
}

// Decision is what to do with one connection, and why.
type Decision struct {
	Action Action
	// Reason of the action; for Wait the reason of the refusal once NeedWait is over.
	Reason reason.Reason
	// Need is set for Wait.
	Need Need
	// Upstream is the address to connect to: the destination pod's port 15008, or the target itself.
	Upstream netip.AddrPort
	// Target is the destination after service and port are resolved.
	Target netip.AddrPort
	// Authority of the CONNECT request; Tunnel only.
	Authority string
	// Expected are the SPIFFE URIs the upstream may show; Tunnel only, never empty.
	Expected []string
	// Service the client addressed, and Workload behind the chosen endpoint; nil where there is none.
	Service  *mesh.Service
	Workload *mesh.Workload
}

// InProcess reports whether both ends are pods of the deciding node, and c does not want TLS between these: a ztunnel
// that serves both need not leave its process. A waypoint is no such end.
func (d Decision) InProcess(c *mesh.Config) bool {
	return d.Action == Tunnel && d.Reason == reason.SameNode && !c.SameNodeTLS &&
		(d.Service == nil || d.Service.Waypoint.IsZero())
}

// Expired is the decision once waiting for Need took NeedWait.
func (d Decision) Expired() Decision {
	d.Action = Refuse
	return d
}

func refuse(d Decision, r reason.Reason) Decision {
	d.Action, d.Reason = Refuse, r
	return d
}

func wait(d Decision, n Need, then reason.Reason) Decision {
	d.Action, d.Need, d.Reason = Wait, n, then
	return d
}

func pass(d Decision, r reason.Reason) Decision {
	d.Action, d.Reason, d.Upstream = Passthrough, r, d.Target
	return d
}

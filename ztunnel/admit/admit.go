// SPDX-License-Identifier: Apache-2.0

// Package admit decides about connections that reach a captured pod: the authority asked for, authorization, and
// whether plaintext may come from there. Its functions are pure; the proxy waits and acts.
package admit

import (
	"errors"
	"net/netip"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/authz"
	"github.com/warren-mesh/warren/ztunnel/route"
)

// Policies evaluates authorization, as authz.Evaluate does.
type Policies interface {
	Evaluate(*mesh.Snapshot, *mesh.Workload, authz.Connection) authz.Decision
}

// Decision is what to do with one connection.
type Decision struct {
	// Action is Tunnel or Passthrough to let it in, or Refuse, or Wait.
	Action route.Action
	// Reason of the action; for Wait that of the refusal once the wait is over.
	Reason reason.Reason
	// Inbound is what a CONNECT request asks for; zero until its authority is accepted.
	Inbound route.Inbound
	// Bad is set where the authority is refused: an *route.AuthorityError.
	Bad error
	// Judged: policy was evaluated, with Policy for its outcome.
	Judged bool
	Policy authz.Decision
}

// Expired is the decision once waiting took route.NeedWait.
func (d Decision) Expired() Decision {
	if d.Action == route.Wait {
		d.Action = route.Refuse
	}
	return d
}

// Text is the sentence an operator reads beside the reason.
func (d Decision) Text() string {
	if d.Judged && d.Reason == d.Policy.Reason {
		return d.Policy.Text()
	}
	return d.Reason.Text()
}

// Stream decides about a CONNECT request of peer, which came from the address src by a tunnel to dst, an address
// of the pod local (nil while the snapshot lacks it).
func Stream(snap *mesh.Snapshot, p Policies, local *mesh.Workload, peer mesh.Identity, src, dst netip.Addr, authority string) Decision {
	in, bad := route.CheckAuthority(snap, local, dst, authority)
	d := Decision{Action: route.Tunnel, Reason: reason.Tunnel, Inbound: in}
	if bad != nil {
		d.Action, d.Reason, d.Bad = route.Refuse, reason.BadRequest, bad
		if e := (*route.AuthorityError)(nil); errors.As(bad, &e) {
			d.Reason = e.Reason
		}
		if local == nil {
			d.Action = route.Wait
		}
		return d
	}
	return d.judge(p.Evaluate(snap, local, authz.Connection{Identity: peer, Source: src, Destination: in.Target}))
}

// Plaintext decides about a plain TCP connection from src to dst of the pod, whose workload is local. Policy comes
// first, for STRICT refuses at once.
func Plaintext(snap *mesh.Snapshot, p Policies, local *mesh.Workload, pod string, src netip.Addr, dst netip.AddrPort, now time.Time) Decision {
	var d Decision
	if local != nil {
		d = d.judge(p.Evaluate(snap, local, authz.Connection{Source: src, Destination: dst}))
		if !d.Policy.Allowed {
			return d
		}
	}
	r := route.Plaintext(snap, local, pod, src, dst, now)
	d.Action, d.Reason = r.Action, r.Reason
	return d
}

func (d Decision) judge(v authz.Decision) Decision {
	d.Judged, d.Policy = true, v
	switch {
	case v.Allowed:
	case v.Reason == reason.PolicyUnknown:
		d.Action, d.Reason = route.Wait, v.Reason
	default:
		d.Action, d.Reason = route.Refuse, v.Reason
	}
	return d
}

// Decisive is the policy that refused, or that is waited for; zero when none is.
func Decisive(d authz.Decision) mesh.Name {
	if !d.Need.IsZero() {
		return d.Need
	}
	return d.Policy
}

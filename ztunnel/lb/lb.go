// SPDX-License-Identifier: Apache-2.0

// Package lb chooses one endpoint of a service. It is pure: the caller brings the candidates and the dice.
package lb

import (
	"hash/fnv"
	"math/rand/v2"
	"net/netip"

	"github.com/warren-mesh/warren/mesh"
)

// Endpoint is one workload that serves a service's port.
type Endpoint struct {
	Workload *mesh.Workload
	// Target is the endpoint's own address and port.
	Target netip.AddrPort
}

// Candidates are a service's endpoints for one port, by whether a connection may go there now.
type Candidates struct {
	// Usable may be chosen: captured, or plaintext by the rules.
	Usable []Endpoint
	// Pending are enrolled but not captured: they wait while another can be chosen.
	Pending []Endpoint
	// Ready counts the endpoints that are ready at all, whatever ports they serve, where the client may use them.
	Ready int
}

// Standing says why an endpoint may be chosen, or not.
type Standing uint8

const (
	// Usable may be chosen.
	Usable Standing = iota
	// Pending may be chosen while none is usable.
	Pending
	// NotReady is not ready.
	NotReady
	// Draining terminates and still serves: it may be chosen while none is ready.
	Draining
	// Elsewhere is on another node than the client, of a Service that is local to each node.
	Elsewhere
	// NoPort does not serve the port.
	NoPort
	// NoAddress has no address.
	NoAddress
)

var standings = [...]string{"usable", "enrolled, not captured yet", "not ready", "terminating", "on another node (internalTrafficPolicy: Local)", "does not serve this port", "has no address"}

func (s Standing) String() string { return standings[s] }

// Considered is told of an endpoint that was looked at.
type Considered func(Endpoint, Standing)

// Gather sorts the endpoints of svc for its port, for a client on node. An endpoint's address has the family of the
// virtual address asked for where it has one, so that an IPv4 client stays on IPv4. Where nothing that is ready serves
// the port, those stand in that are draining, as with kube-proxy. considered, unless nil, is told of each.
func Gather(snap *mesh.Snapshot, svc *mesh.Service, port uint16, like netip.Addr, node string, considered Considered) Candidates {
	var c Candidates
	var draining []Endpoint
	tell := func(e Endpoint, s Standing) {
		if considered != nil {
			considered(e, s)
		}
	}
	for _, w := range snap.Endpoints(svc.NamespacedName()) {
		target, served := w.Services[svc.NamespacedName()][port]
		e := Endpoint{Workload: w, Target: netip.AddrPortFrom(address(w, like), target)}
		if !served {
			e.Target = netip.AddrPortFrom(e.Target.Addr(), 0)
		}
		standing := stand(svc, e, node)
		if standing == Draining {
			draining = append(draining, e)
			continue
		}
		if standing != NotReady && standing != Elsewhere {
			c.Ready++
		}
		c.add(e, standing)
		tell(e, standing)
	}
	instead := len(c.Usable)+len(c.Pending) == 0
	for _, e := range draining {
		standing := Draining
		if instead {
			standing = reach(e)
			c.add(e, standing)
		}
		tell(e, standing)
	}
	return c
}

func (c *Candidates) add(e Endpoint, s Standing) {
	switch s {
	case Usable:
		c.Usable = append(c.Usable, e)
	case Pending:
		c.Pending = append(c.Pending, e)
	}
}

// stand is an endpoint's standing by itself; Draining only where it could be chosen instead of others.
func stand(svc *mesh.Service, e Endpoint, node string) Standing {
	ready := e.Workload.Ready || svc.PublishNotReady
	switch {
	case svc.Local && e.Workload.Node != node:
		return Elsewhere
	case !ready && !e.Workload.Draining:
		return NotReady
	case ready || reach(e) > Pending:
		return reach(e)
	}
	return Draining
}

// reach is the standing of an endpoint that serves.
func reach(e Endpoint) Standing {
	switch {
	case e.Target.Port() == 0:
		return NoPort
	case !e.Target.Addr().IsValid():
		return NoAddress
	case e.Workload.Capture == mesh.Pending && !e.Workload.HostNetwork:
		return Pending
	}
	return Usable
}

// Keep returns the endpoint that client, an address, keeps: another client has another, and one that comes or goes
// moves only who goes to it or came from it (rendezvous hashing). It holds across ztunnels and their restarts.
func Keep(es []Endpoint, client netip.Addr) Endpoint {
	var best Endpoint
	var most uint64
	for i, e := range es {
		h := fnv.New64a()
		_, _ = h.Write(client.Unmap().AsSlice())
		_, _ = h.Write([]byte(e.Workload.UID))
		if score := mix(h.Sum64()); i == 0 || score > most {
			best, most = e, score
		}
	}
	return best
}

// mix spreads what the last bytes changed over all bits (the end of MurmurHash3, 64 bits).
func mix(h uint64) uint64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// Choose returns one of the endpoints; pick returns a number in [0, n), and nil means Random.
func Choose(es []Endpoint, pick func(n int) int) Endpoint {
	if len(es) == 1 {
		return es[0]
	}
	if pick == nil {
		pick = Random
	}
	return es[pick(len(es))]
}

// Random is uniform in [0, n).
func Random(n int) int { return rand.IntN(n) }

func address(w *mesh.Workload, like netip.Addr) netip.Addr {
	var other netip.Addr
	for _, a := range w.Addresses {
		a = a.Unmap()
		if a.Is4() == like.Unmap().Is4() {
			return a
		}
		if !other.IsValid() {
			other = a
		}
	}
	return other
}

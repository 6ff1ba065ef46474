// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"slices"
	"sync"

	"github.com/warren-mesh/warren/mesh"
)

// Evaluator gives Evaluate's answers from an index for each destination, made when first needed and again when
// the policies that apply to it changed. Destinations to which the same policies apply share one. The zero
// value is ready. Safe for concurrent use.
type Evaluator struct {
	mu      sync.RWMutex
	byUID   map[string]*compiled
	sweepAt int // size at which those that are gone are forgotten

	compiling sync.Mutex
}

// compiled is the index of one destination, and what it was made from.
type compiled struct {
	dst        *mesh.Workload
	all, scope mesh.PolicySet
	referenced []*mesh.Policy // by dst, nil where unknown
	index      *index
}

// sweepFrom is how many destinations are kept without looking whether they are still there.
const sweepFrom = 256

// Evaluate decides whether dst accepts the connection, as the function of that name.
func (e *Evaluator) Evaluate(snap *mesh.Snapshot, dst *mesh.Workload, c Connection) Decision {
	e.mu.RLock()
	k := e.byUID[dst.UID]
	e.mu.RUnlock()
	if k == nil || k.dst != dst || k.all != snap.AllPolicies() {
		k = e.renew(snap, dst)
	}
	return k.index.evaluate(c)
}

// renew finds or makes the index for dst. One is made at a time: its cost is that of one connection among many.
func (e *Evaluator) renew(snap *mesh.Snapshot, dst *mesh.Workload) *compiled {
	e.compiling.Lock()
	defer e.compiling.Unlock()
	now := &compiled{dst: dst, all: snap.AllPolicies(), scope: snap.PolicySet(dst.Namespace)}
	for _, n := range dst.Policies {
		now.referenced = append(now.referenced, snap.Policy(n))
	}
	e.mu.RLock()
	if old := e.byUID[dst.UID]; old != nil && old.same(now) {
		now.index = old.index
	}
	for _, other := range e.byUID {
		if now.index == nil && other.same(now) {
			now.index = other.index
		}
	}
	e.mu.RUnlock()
	if now.index == nil {
		now.index = compile(snap, dst)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.byUID == nil {
		e.byUID, e.sweepAt = map[string]*compiled{}, sweepFrom
	}
	e.byUID[dst.UID] = now
	if len(e.byUID) >= e.sweepAt {
		for uid := range e.byUID {
			if uid != dst.UID && snap.Workload(uid) == nil {
				delete(e.byUID, uid)
			}
		}
		e.sweepAt = max(sweepFrom, 2*len(e.byUID))
	}
	return now
}

// same reports whether the same policies apply to both.
func (k *compiled) same(o *compiled) bool {
	return k.scope == o.scope && k.dst.Namespace == o.dst.Namespace &&
		slices.Equal(k.referenced, o.referenced) && slices.Equal(k.dst.Policies, o.dst.Policies)
}

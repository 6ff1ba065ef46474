// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/warren-mesh/warren/api/v1alpha1"
)

// retryCondition is how long after a failed publication it is tried again.
const retryCondition = time.Second

// ConditionKey names a condition: an object, as Key.String does, and the condition's type.
type ConditionKey struct{ Object, Type string }

// Standing is how a source's objects stand now. Safe for concurrent use.
type Standing interface {
	// Problems are those that stand.
	Problems() []Problem
	// MeshConfig is how the cluster's stands.
	MeshConfig() MeshConfigState
	// UID reports whether an object is there, refused or not, and what tells it from an earlier one of its name: "" where
	// nothing does. Of a kind that is not read it says ("", true).
	UID(object string) (uid string, there bool)
}

// Conditions keeps objects' conditions equal to how they stand, through a Publisher: Accepted of those that have, or
// had, a problem, Accepted and Applied of the MeshConfig.
type Conditions struct {
	Publisher Publisher
	Objects   Standing
	// Published is what objects say already; nil when nobody can tell.
	Published map[ConditionKey]Condition
	Log       *slog.Logger
}

// Run publishes now, and again at each token of told, until ctx ends; what fails is tried again.
func (c Conditions) Run(ctx context.Context, told <-chan struct{}) error {
	published := c.published()
	for {
		var retry <-chan time.Time
		if !c.once(ctx, published) {
			retry = time.After(retryCondition)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-told:
		case <-retry:
		}
	}
}

// said is a condition that went out, and to which object: one made anew under its name does not have it.
type said struct {
	Condition
	uid string
}

// published is what objects say already.
func (c Conditions) published() map[ConditionKey]said {
	out := map[ConditionKey]said{}
	for key, cond := range c.Published {
		uid, _ := c.Objects.UID(key.Object)
		out[key] = said{cond, uid}
	}
	return out
}

// once publishes what differs from published, and reports whether all of it went out.
func (c Conditions) once(ctx context.Context, published map[ConditionKey]said) bool {
	want := conditionsOf(c.Objects.Problems())
	addMeshConfig(want, c.Objects.MeshConfig())
	done := true
	failed := func(object string, err error) {
		if ctx.Err() == nil {
			c.Log.Warn("publish condition", "object", object, "err", err)
		}
		done = false
	}
	for _, key := range inOrder(published) {
		uid, there := c.Objects.UID(key.Object)
		switch _, ok := want[key]; {
		case !there:
			delete(want, key)
			if err := c.Publisher.ForgetCondition(ctx, key.Object, key.Type); err != nil {
				failed(key.Object, err)
				continue
			}
			delete(published, key)
		case uid != published[key].uid:
			delete(published, key)
		case !ok && key.Type == ConditionAccepted:
			want[key] = Condition{Type: ConditionAccepted, Status: true, Reason: ReasonAccepted}
		}
	}
	for _, key := range inOrder(want) {
		cond := want[key]
		uid, _ := c.Objects.UID(key.Object) // before: if it is another one afterwards, that one is told next
		if published[key] == (said{cond, uid}) {
			continue
		}
		if err := c.Publisher.PublishCondition(ctx, key.Object, cond); err != nil {
			failed(key.Object, err)
			continue
		}
		published[key] = said{cond, uid}
	}
	return done
}

// inOrder returns the keys in an order that does not change: conditions stand in their object as they came.
func inOrder[V any](m map[ConditionKey]V) []ConditionKey {
	return slices.SortedFunc(maps.Keys(m), func(a, b ConditionKey) int {
		return cmp.Or(strings.Compare(a.Object, b.Object), strings.Compare(a.Type, b.Type))
	})
}

// conditionsOf makes one condition per object of the problems that name one.
func conditionsOf(ps []Problem) map[ConditionKey]Condition {
	out := map[ConditionKey]Condition{}
	for _, p := range ps {
		if p.Object == "" {
			continue
		}
		key := ConditionKey{p.Object, ConditionAccepted}
		c, ok := out[key]
		if !ok {
			c = Condition{Type: ConditionAccepted, Status: true, Reason: ReasonPartial}
		}
		if !p.Partial {
			c.Status, c.Reason = false, ReasonInvalid
		}
		msg := strings.TrimPrefix(p.Source+": "+p.Err.Error(), ": ")
		if p.InForce != "" {
			msg += " (" + p.InForce + ")"
		}
		if c.Message != "" {
			msg = c.Message + "; " + msg
		}
		c.Message = msg
		out[key] = c
	}
	return out
}

// addMeshConfig has the cluster's MeshConfig say how it stands, also when all is well: it is where one looks.
func addMeshConfig(want map[ConditionKey]Condition, s MeshConfigState) {
	if !s.Here {
		return
	}
	object := Key{Kind: "MeshConfig", Name: v1alpha1.DefaultName}.String()
	key := ConditionKey{object, ConditionAccepted}
	accepted, ok := want[key]
	if !ok {
		accepted = Condition{Type: ConditionAccepted, Status: true, Reason: ReasonAccepted}
	}
	accepted.ObservedGeneration = s.Generation
	want[key] = accepted
	applied := Condition{Type: ConditionApplied, Status: true, Reason: ReasonApplied, ObservedGeneration: s.Generation}
	switch {
	case s.StandIn:
		applied.Status, applied.Reason = false, ReasonInvalid
		applied.Message = "no good one was seen: the flags hold, and plaintext is refused unless spec.mtls.mode is PERMISSIVE or left out"
	case !accepted.Status:
		applied.Status, applied.Reason = false, ReasonInvalid
		applied.Message = fmt.Sprintf("the last good one, of generation %d, stays in force", s.InForce)
	}
	want[ConditionKey{object, ConditionApplied}] = applied
}

// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"log/slog"
	"maps"
	"strings"
	"time"
)

// retryCondition is how long after a failed publication it is tried again.
const retryCondition = time.Second

// ProblemConditions keeps objects' Accepted condition equal to their problems, through a Publisher.
type ProblemConditions struct {
	Publisher Publisher
	// Problems are those that stand now.
	Problems func() []Problem
	// Published is what objects say already; nil when nobody can tell.
	Published map[string]Condition
	Log       *slog.Logger
}

// Run publishes now, and again at each token of told, until ctx ends; what fails is tried again.
func (c ProblemConditions) Run(ctx context.Context, told <-chan struct{}) error {
	published := maps.Clone(c.Published)
	if published == nil {
		published = map[string]Condition{}
	}
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

// once publishes what differs from published, and reports whether all of it went out.
func (c ProblemConditions) once(ctx context.Context, published map[string]Condition) bool {
	want := conditionsOf(c.Problems())
	for object := range published {
		if _, ok := want[object]; !ok {
			want[object] = Condition{Type: ConditionAccepted, Status: true, Reason: ReasonAccepted}
		}
	}
	done := true
	for object, cond := range want {
		if published[object] == cond {
			continue
		}
		if err := c.Publisher.PublishCondition(ctx, object, cond); err != nil {
			if ctx.Err() == nil {
				c.Log.Warn("publish condition", "object", object, "err", err)
			}
			done = false
			continue
		}
		published[object] = cond
	}
	return done
}

// conditionsOf makes one condition per object of the problems that name one.
func conditionsOf(ps []Problem) map[string]Condition {
	out := map[string]Condition{}
	for _, p := range ps {
		if p.Object == "" {
			continue
		}
		c, ok := out[p.Object]
		if !ok {
			c = Condition{Type: ConditionAccepted, Status: true, Reason: ReasonPartial}
		}
		if !p.Partial {
			c.Status, c.Reason = false, ReasonInvalid
		}
		msg := strings.TrimPrefix(p.Source+": "+p.Err.Error(), ": ")
		if c.Message != "" {
			msg = c.Message + "; " + msg
		}
		c.Message = msg
		out[p.Object] = c
	}
	return out
}

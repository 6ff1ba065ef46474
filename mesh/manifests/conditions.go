// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"context"
	"strings"
	"time"

	"github.com/warren-mesh/warren/mesh/kube"
)

// retry is how long after a failed publication it is tried again.
const retry = time.Second

// publishProblems keeps the objects' conditions equal to their problems.
func (s *Source) publishProblems(ctx context.Context) error {
	published := map[string]kube.Condition{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.told:
		}
		if s.publisher == nil {
			continue
		}
		for !s.publishOnce(ctx, published) {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(retry):
			}
		}
	}
}

// publishOnce publishes what differs from published, and reports whether all of it went out.
func (s *Source) publishOnce(ctx context.Context, published map[string]kube.Condition) bool {
	want := conditionsOf(s.Problems())
	for object := range published {
		if _, ok := want[object]; !ok {
			want[object] = kube.Condition{Type: kube.ConditionAccepted, Status: true, Reason: kube.ReasonAccepted}
		}
	}
	done := true
	for object, c := range want {
		if published[object] == c {
			continue
		}
		if err := s.publisher.PublishCondition(ctx, object, c); err != nil {
			s.log.Warn("publish condition", "object", object, "err", err)
			done = false
			continue
		}
		published[object] = c
	}
	return done
}

// conditionsOf makes one condition per object of the problems that name one.
func conditionsOf(ps []kube.Problem) map[string]kube.Condition {
	out := map[string]kube.Condition{}
	for _, p := range ps {
		if p.Object == "" {
			continue
		}
		c, ok := out[p.Object]
		if !ok {
			c = kube.Condition{Type: kube.ConditionAccepted, Status: true, Reason: kube.ReasonPartial}
		}
		if !p.Partial {
			c.Status, c.Reason = false, kube.ReasonInvalid
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

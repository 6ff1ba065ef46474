// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"context"

	"github.com/warren-mesh/warren/mesh/kube"
)

// publishProblems keeps the objects' conditions equal to their problems.
func (s *Source) publishProblems(ctx context.Context) error {
	if s.publisher == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return kube.ProblemConditions{Publisher: s.publisher, Problems: s.Problems, Log: s.log}.Run(ctx, s.told)
}

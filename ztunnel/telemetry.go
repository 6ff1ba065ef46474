// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"context"
	"slices"

	"github.com/warren-mesh/warren/mesh"
)

// followTelemetry has access log and metrics do as the mesh's configuration says, until ctx ends. Tracing follows it by
// itself.
func (z *ZTunnel) followTelemetry(ctx context.Context) error {
	var log mesh.AccessLog
	var drop []string
	for {
		snap, changed := z.store.Watch()
		c := snap.Config()
		if c.AccessLog != log {
			log = c.AccessLog
			z.cfg.AccessLog.Configure(log)
		}
		if !slices.Equal(c.DropLabels, drop) {
			drop = c.DropLabels
			z.metrics.DropLabels(drop)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

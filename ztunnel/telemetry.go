// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"context"
	"slices"

	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel/metrics"
)

// measureProcess has the metrics tell of the process. One that seals itself opens now what that takes.
func (z *ZTunnel) measureProcess() {
	if !z.cfg.Sealed {
		z.registry.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		return
	}
	p, err := metrics.OpenProcess("/proc")
	if err != nil {
		z.cfg.Log.Warn("no process metrics", "err", err)
		return
	}
	z.registry.MustRegister(p)
}

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

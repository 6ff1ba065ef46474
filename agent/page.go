// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net"
	"path/filepath"

	"github.com/warren-mesh/warren/agent/debug"
	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/localhost"
)

// serveDebugSocket serves the debug pages to those who may enter the run directory.
func (a *Agent) serveDebugSocket(ctx context.Context) error {
	if err := waitForDir(ctx, a.cfg.RunDir, a.cfg.Log); err != nil {
		return nil // told to stop
	}
	l, err := listenUnix("unix", filepath.Join(a.cfg.RunDir, broker.SocketName("agent", newGeneration(), "debug")))
	if err != nil {
		return err
	}
	return serveHTTP(ctx, l, localhost.Only(debug.Handler(a.sources())))
}

// dialZtunnel connects to the admin pages of this node's newest ztunnel.
func (a *Agent) dialZtunnel(ctx context.Context) (net.Conn, error) {
	return broker.DialNewest(ctx, a.cfg.RunDir, "ztunnel", "admin")
}

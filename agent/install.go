// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"github.com/warren-mesh/warren/agent/cni"
	protocol "github.com/warren-mesh/warren/mesh/cni"
)

// keepInstalled installs the CNI plugin, and keeps it installed.
func (a *Agent) keepInstalled(ctx context.Context) error {
	install := a.cfg.Install
	if !install.On() {
		return nil
	}
	install.Newest = func() bool { return newest(a.cfg.RunDir, a.socket()) }
	install.Installed = cni.InstalledGauge(a.registry)
	if a.waitToInstall(ctx) != nil {
		return nil // told to stop
	}
	return install.Run(ctx)
}

// waitToInstall waits until the plugin has something to go by: this agent's answers, or what an agent before it has left of
// the namespaces. With the latter pods of the mesh wait for this agent; on a node that reboots, where the network's owner has
// just written its configuration anew, they would start uncaptured. Without either, every pod would wait. It returns nil or
// ctx's error.
func (a *Agent) waitToInstall(ctx context.Context) error {
	if _, err := protocol.ReadNamespaces(a.cfg.StateDir); a.cfg.StateDir != "" && err == nil {
		return nil
	}
	select {
	case <-a.serving:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// socket is where the CNI plugin asks this agent; "" before it serves: whichever agent does is newer.
func (a *Agent) socket() string {
	select {
	case <-a.serving:
		return a.pluginSocket
	default:
		return ""
	}
}

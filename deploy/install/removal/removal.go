// SPDX-License-Identifier: Apache-2.0

// Package removal takes Warren off a cluster's nodes and removes what its programs wrote on the API: all that deleting
// the chart's own objects would leave. It is what `warren-deploy uninstall` does first, and the Job of `helm uninstall`.
package removal

import (
	"context"
	"fmt"
	"io"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

// Names of what the chart installs, and of what the programs write.
const (
	namespace    = "warren-system"
	nodeSet      = "warren-node"
	ztunnelSet   = "warren-ztunnel"
	control      = "warren-control"
	template     = "warren-remove"
	secret       = "warren-ca"
	lease        = "warren-control"
	bundle       = "warren-ca-root"
	captured     = "warren.dev/captured"
	capturedTrue = "true"
	managedBy    = "app.kubernetes.io/managed-by"
	partName     = "app.kubernetes.io/name"
	anyPart      = "app.kubernetes.io/part-of=warren"
	byController = "warren-control"
)

// lookInterval is how often the cluster is looked at while it is waited for.
const lookInterval = 300 * time.Millisecond

// Options of a removal.
type Options struct {
	Client kubernetes.Interface
	// Dynamic reaches the kinds that Kubernetes itself does not have.
	Dynamic dynamic.Interface
	// SkipNotReady leaves nodes that are not ready as they are, instead of refusing to begin; the pods there are deleted
	// from the API without their kubelets' consent.
	SkipNotReady bool
	// Progress gets a line for each step; nil is silence.
	Progress io.Writer
}

// Run removes Warren, but for the chart's objects. In the order in which the least connections break: node pods end, and
// captures with everything else on the nodes, while ztunnels go on; then these, which drain; then the authority. It can
// be run again after it failed; a cluster without Warren is no error. It returns the nodes that it did not look at, though
// Warren may have been there.
func Run(ctx context.Context, o Options) (unseen []string, err error) {
	r := remover{o}
	p, err := r.plan(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.cleanNodes(ctx, p); err != nil {
		return nil, err
	}
	left, err := r.cleanAPI(ctx, p)
	if err != nil {
		return nil, err
	}
	return p.unseen(left), nil
}

type remover struct{ Options }

func (r remover) say(format string, args ...any) {
	if r.Progress != nil {
		fmt.Fprintf(r.Progress, format+"\n", args...)
	}
}

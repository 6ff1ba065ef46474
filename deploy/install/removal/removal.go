// SPDX-License-Identifier: Apache-2.0

// Package removal takes Warren off a cluster's nodes and removes what its programs wrote on the API: all that deleting
// the chart's own objects would leave. It is what `warren-deploy uninstall` does first, and the Job of `helm uninstall`.
package removal

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	managedBy    = "app.kubernetes.io/managed-by"
	byController = "warren-control"
)

// lookInterval is how often the cluster is looked at while it is waited for.
const lookInterval = 300 * time.Millisecond

// Options of a removal.
type Options struct {
	Client kubernetes.Interface
	// Dynamic reaches the kinds that Kubernetes itself does not have.
	Dynamic dynamic.Interface
	// SkipNotReady leaves nodes that are not ready as they are, instead of refusing to begin.
	SkipNotReady bool
	// Progress gets a line for each step; nil is silence.
	Progress io.Writer
}

// Run removes Warren, but for the chart's objects. In the order in which the least connections break: node pods end, and
// captures with everything else on the nodes, while ztunnels go on; then these, which drain; then the authority. It can
// be run again after it failed; a cluster without Warren is no error.
func Run(ctx context.Context, o Options) error {
	r := remover{o}
	nodes, err := r.nodes(ctx)
	if err != nil {
		return err
	}
	t, err := o.Client.CoreV1().PodTemplates(namespace).Get(ctx, template, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		r.say("no PodTemplate %s/%s: nodes are taken for clean", namespace, template)
	case err != nil:
		return fmt.Errorf("read PodTemplate %s/%s: %w", namespace, template, err)
	default:
		if err := r.cleanNodes(ctx, nodes, t.Template); err != nil {
			return err
		}
	}
	return r.cleanAPI(ctx)
}

type remover struct{ Options }

func (r remover) say(format string, args ...any) {
	if r.Progress != nil {
		fmt.Fprintf(r.Progress, format+"\n", args...)
	}
}

// nodes are those to clean. It fails if one can't be, unless such are to be skipped.
func (r remover) nodes(ctx context.Context) ([]corev1.Node, error) {
	list, err := r.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var ready []corev1.Node
	var away []string
	for _, n := range list.Items {
		if isReady(&n) {
			ready = append(ready, n)
		} else {
			away = append(away, n.Name)
		}
	}
	if len(away) == 0 {
		return ready, nil
	}
	names := strings.Join(away, ", ")
	if !r.SkipNotReady {
		return nil, fmt.Errorf("nodes that are not ready can't be cleaned: %s (make them ready, delete their Node objects, or skip them "+
			"and clean them by hand: docs/operations/install.md); nothing was changed", names)
	}
	r.say("not ready, and skipped: %s: Warren's captures, CNI plugin and files stay there (docs/operations/install.md tells how to remove them)", names)
	return ready, nil
}

func isReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

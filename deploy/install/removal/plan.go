// SPDX-License-Identifier: Apache-2.0

package removal

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// plan says of each node what a removal can do about it.
type plan struct {
	pod   *corev1.PodTemplateSpec // what cleans a node; nil if it is missing, and then no node is cleaned
	ready []string
	away  []string // not ready
	other []string // by the pod's own terms it can't run there: Windows, virtual nodes
}

// planFor sorts the nodes by where the pod may run, as scheduler and kubelet would. Where it is missing that is Linux.
func planFor(nodes []corev1.Node, pod *corev1.PodTemplateSpec) (plan, error) {
	terms := corev1.PodSpec{NodeSelector: map[string]string{corev1.LabelOSStable: "linux"}}
	if pod != nil {
		terms = pod.Spec
	}
	where := nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: terms})
	p := plan{pod: pod}
	for _, n := range nodes {
		fits, err := where.Match(&n)
		switch {
		case err != nil:
			return plan{}, fmt.Errorf("read node affinity of PodTemplate %s/%s: %w", namespace, template, err)
		case !fits:
			p.other = append(p.other, n.Name)
		case isReady(&n):
			p.ready = append(p.ready, n.Name)
		default:
			p.away = append(p.away, n.Name)
		}
	}
	return p, nil
}

func isReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// cleaned are the nodes that the removal cleans.
func (p plan) cleaned() map[string]bool {
	set := map[string]bool{}
	if p.pod != nil {
		for _, n := range p.ready {
			set[n] = true
		}
	}
	return set
}

// unseen are the nodes on which anything of Warren may be left: those it runs on that were not cleaned, and whatever nodes
// have pods that are captured still.
func (p plan) unseen(captured []string) []string {
	cleaned := p.cleaned()
	all := slices.DeleteFunc(slices.Concat(p.ready, p.away, captured), func(n string) bool { return cleaned[n] })
	slices.Sort(all)
	return slices.Compact(all)
}

// plan looks at the cluster. It fails while a node that should be cleaned can't be, unless such are to be skipped.
func (r remover) plan(ctx context.Context) (plan, error) {
	pod, err := r.cleaner(ctx)
	if err != nil {
		return plan{}, err
	}
	list, err := r.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return plan{}, fmt.Errorf("list nodes: %w", err)
	}
	p, err := planFor(list.Items, pod)
	if err != nil {
		return plan{}, err
	}
	away := strings.Join(p.away, ", ")
	if away != "" && !r.SkipNotReady {
		return plan{}, fmt.Errorf("nodes that are not ready can't be cleaned: %s (make them ready, delete their Node objects, or skip them "+
			"and clean them by hand: docs/operations/install.md); nothing was changed", away)
	}
	if away != "" {
		r.say("not ready, and skipped: %s: Warren's captures, CNI plugin and files stay there (docs/operations/install.md tells how to remove them)", away)
	}
	if len(p.other) > 0 {
		r.say("%d nodes can't have pods of Warren's, and are not looked at: they are not Linux, or daemonSets.affinity excludes them", len(p.other))
	}
	if pod == nil {
		r.say("no PodTemplate %s/%s: no node is looked at (Warren was never here, or an earlier uninstallation took the template)", namespace, template)
	}
	return p, nil
}

// cleaner is what the chart has for a node's cleaning, nil if it is not there.
func (r remover) cleaner(ctx context.Context) (*corev1.PodTemplateSpec, error) {
	t, err := r.Client.CoreV1().PodTemplates(namespace).Get(ctx, template, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read PodTemplate %s/%s: %w", namespace, template, err)
	}
	return &t.Template, nil
}

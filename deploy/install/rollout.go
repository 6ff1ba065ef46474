// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
)

// rollout is how far the release is on nodes that are ready.
type rollout struct {
	parts   []part
	away    []string // nodes that are not ready, and have pods of it
	trouble []string // what pods on the others complain of
}

// part is a DaemonSet or the Deployment.
type part struct {
	name       string
	generation int64
	observed   bool // its controller knows of this generation
	want       int  // pods
	fresh      int  // of these, the ones that are new, with no old one beside them
	ready      int  // of these, the ones that are ready
	old        int  // pods of before that have yet to end
	away       int  // pods on nodes that are not ready, which are not among them
}

// done and missing are what patience counts.
func (p part) done() int    { return p.fresh + p.ready }
func (p part) missing() int { return 2*p.want - p.done() + p.old }

// pending says what the part waits for; empty: nothing.
func (p part) pending() string {
	switch {
	case !p.observed:
		return p.name + " (not looked at yet)"
	case p.want == 0 && p.away > 0:
		return p.name + " (no node with a pod of it is ready)"
	case p.old > 0:
		return fmt.Sprintf("%s (of %d pods %d are new; %d old)", p.name, p.want, p.fresh, p.old)
	case p.missing() > 0:
		return fmt.Sprintf("%s (of %d pods %d are new, %d of them ready)", p.name, p.want, p.fresh, p.ready)
	}
	return ""
}

func (r rollout) pending() []string {
	var out []string
	for _, p := range r.parts {
		if why := p.pending(); why != "" {
			out = append(out, why)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return append(out, r.trouble...)
}

// lookAt reads it from the API.
func lookAt(ctx context.Context, client kubernetes.Interface) (rollout, error) {
	ours := metav1.ListOptions{LabelSelector: "app.kubernetes.io/part-of=warren"}
	apps, core := client.AppsV1(), client.CoreV1()
	sets, err1 := apps.DaemonSets(Namespace).List(ctx, ours)
	deployments, err2 := apps.Deployments(Namespace).List(ctx, ours)
	revisions, err3 := apps.ControllerRevisions(Namespace).List(ctx, ours)
	pods, err4 := core.Pods(Namespace).List(ctx, ours)
	nodes, err5 := core.Nodes().List(ctx, metav1.ListOptions{})
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return rollout{}, err
	}
	var r rollout
	on := places{ready: map[string]bool{}, pods: pods.Items}
	for _, n := range nodes.Items {
		on.ready[n.Name] = nodeReady(&n)
	}
	for _, d := range sets.Items {
		r.parts = append(r.parts, on.daemonSet(&d, newest(&d, revisions.Items)))
	}
	for _, d := range deployments.Items {
		r.parts = append(r.parts, on.deployment(&d))
	}
	var here []corev1.Pod
	for _, p := range pods.Items {
		if !on.away(&p) {
			here = append(here, p)
		} else if !slices.Contains(r.away, p.Spec.NodeName) {
			r.away = append(r.away, p.Spec.NodeName)
		}
	}
	slices.Sort(r.away)
	r.trouble = trouble(here)
	return r, nil
}

// newest is the hash of the set's own template, as its pods are labelled. Only the order of revisions tells which it is.
func newest(d *appsv1.DaemonSet, all []appsv1.ControllerRevision) string {
	var last appsv1.ControllerRevision
	for _, r := range all {
		if metav1.IsControlledBy(&r, d) && r.Revision > last.Revision {
			last = r
		}
	}
	return last.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]
}

// places are nodes and what is on them.
type places struct {
	ready map[string]bool // the nodes there are
	pods  []corev1.Pod
}

// away reports whether the pod is on a node that is there, and is not ready.
func (on places) away(p *corev1.Pod) bool {
	ready, known := on.ready[p.Spec.NodeName]
	return known && !ready
}

// daemonSet counts the pods of a DaemonSet. Its own status counts those on nodes that are not ready among the others.
func (on places) daemonSet(d *appsv1.DaemonSet, hash string) part {
	p := part{
		name: d.Name, generation: d.Generation, observed: d.Status.ObservedGeneration >= d.Generation,
		want: int(d.Status.DesiredNumberScheduled),
	}
	type state struct{ away, fresh, old, ready bool }
	nodes := map[string]state{}
	for _, pod := range on.of(d.Spec.Selector) {
		s := nodes[pod.Spec.NodeName]
		s.away = on.away(&pod)
		if fresh := hash != "" && pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == hash; fresh {
			s.fresh, s.ready = true, s.ready || podReady(&pod)
		} else {
			s.old = true // it may still drain
		}
		nodes[pod.Spec.NodeName] = s
	}
	for node, s := range nodes {
		switch _, known := on.ready[node]; {
		case !known: // it has no node yet, or no longer
		case s.away:
			p.away++
			p.want--
		case s.fresh && !s.old:
			p.fresh++
			if s.ready {
				p.ready++
			}
		}
	}
	p.want = max(0, p.want)
	p.fresh, p.ready = min(p.want, p.fresh), min(p.want, p.ready)
	return p
}

// deployment counts the pods of a Deployment. Kubernetes replaces the ones on nodes that are not ready, after minutes; until
// then one that answers is enough.
func (on places) deployment(d *appsv1.Deployment) part {
	s, want := d.Status, 1
	if d.Spec.Replicas != nil {
		want = int(*d.Spec.Replicas)
	}
	fresh, old, ready := int(s.UpdatedReplicas), int(s.Replicas-s.UpdatedReplicas), int(s.AvailableReplicas)
	if fresh >= want && old == 0 && ready > 0 {
		for _, pod := range on.of(d.Spec.Selector) {
			if on.away(&pod) && pod.DeletionTimestamp == nil {
				ready++
			}
		}
	}
	return part{
		name: d.Name, generation: d.Generation, observed: s.ObservedGeneration >= d.Generation,
		want: want, fresh: min(want, fresh), ready: min(want, ready), old: old, // in a rollout there are more than it wants
	}
}

// of are the pods that run, or are to.
func (on places) of(s *metav1.LabelSelector) []corev1.Pod {
	var out []corev1.Pod
	for _, p := range on.pods {
		ends := p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
		if !ends && labels.SelectorFromSet(s.MatchLabels).Matches(labels.Set(p.Labels)) {
			out = append(out, p)
		}
	}
	return out
}

func nodeReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func podReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

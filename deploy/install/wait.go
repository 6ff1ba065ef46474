// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// waitInterval is how often the cluster is looked at.
const waitInterval = 500 * time.Millisecond

// waitUntil looks until nothing is pending or ctx ends; what is pending is told whenever that changes.
func waitUntil(ctx context.Context, w io.Writer, look func(context.Context) (pending []string, err error)) error {
	t := time.NewTicker(waitInterval)
	defer t.Stop()
	last := ""
	for {
		pending, err := look(ctx)
		if err == nil && len(pending) == 0 {
			return nil
		}
		if err != nil {
			pending = []string{err.Error()}
		}
		if text := strings.Join(pending, "; "); text != last && ctx.Err() == nil {
			last = text
			progress(w, "waiting: %s", text)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; still waiting for: %s", context.Cause(ctx), last)
		case <-t.C:
		}
	}
}

// waitReady waits for every pod of the release.
func waitReady(ctx context.Context, client kubernetes.Interface, w io.Writer) error {
	return waitUntil(ctx, w, func(ctx context.Context) ([]string, error) {
		var out []string
		selector := metav1.ListOptions{LabelSelector: "app.kubernetes.io/part-of=warren"}
		ds, err1 := client.AppsV1().DaemonSets(Namespace).List(ctx, selector)
		ds2, err2 := client.AppsV1().Deployments(Namespace).List(ctx, selector)
		pods, err3 := client.CoreV1().Pods(Namespace).List(ctx, selector)
		if err := errors.Join(err1, err2, err3); err != nil {
			return nil, err
		}
		for _, d := range ds.Items {
			out = append(out, daemonSetPending(&d)...)
		}
		for _, d := range ds2.Items {
			out = append(out, deploymentPending(&d)...)
		}
		if len(out) == 0 {
			return nil, nil
		}
		return append(out, trouble(pods.Items)...), nil
	})
}

func daemonSetPending(d *appsv1.DaemonSet) []string {
	s := d.Status
	switch {
	case s.ObservedGeneration < d.Generation:
		return []string{d.Name + " (not looked at yet)"}
	case s.UpdatedNumberScheduled < s.DesiredNumberScheduled || s.NumberAvailable < s.DesiredNumberScheduled:
		return []string{fmt.Sprintf("%s (of %d pods %d are new, %d ready)", d.Name, s.DesiredNumberScheduled, s.UpdatedNumberScheduled, s.NumberAvailable)}
	}
	return nil
}

func deploymentPending(d *appsv1.Deployment) []string {
	s, want := d.Status, int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	switch {
	case s.ObservedGeneration < d.Generation:
		return []string{d.Name + " (not looked at yet)"}
	case s.UpdatedReplicas < want || s.AvailableReplicas < want || s.Replicas > s.UpdatedReplicas:
		return []string{fmt.Sprintf("%s (of %d pods %d are new, %d ready)", d.Name, want, s.UpdatedReplicas, s.AvailableReplicas)}
	}
	return nil
}

// trouble is what pods that can't start say about it, each complaint once.
func trouble(pods []corev1.Pod) []string {
	var out []string
	add := func(s string) {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	for _, p := range pods {
		for _, c := range p.Status.Conditions {
			switch {
			case c.Status == corev1.ConditionTrue:
			case c.Type == corev1.PodScheduled:
				add(p.Labels["app.kubernetes.io/name"] + " can't be scheduled: " + c.Message)
			case c.Type == corev1.ContainersReady && p.DeletionTimestamp == nil:
				add(fmt.Sprintf("%s on %s: %s", p.Name, p.Spec.NodeName, c.Message))
			}
		}
		for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			if s := c.State.Waiting; s != nil && s.Reason != "ContainerCreating" && s.Reason != "PodInitializing" {
				add(fmt.Sprintf("%s/%s: %s %s", p.Name, c.Name, s.Reason, s.Message))
			}
		}
	}
	return out
}

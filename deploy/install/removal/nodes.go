// SPDX-License-Identifier: Apache-2.0

package removal

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// cleanNodes ends the node pods, runs a pod of the template on each node, and then ends the ztunnels.
func (r remover) cleanNodes(ctx context.Context, nodes []corev1.Node, t corev1.PodTemplateSpec) error {
	var names []string
	for _, n := range nodes {
		if labels.SelectorFromSet(t.Spec.NodeSelector).Matches(labels.Set(n.Labels)) {
			names = append(names, n.Name)
		}
	}
	apps := r.Client.AppsV1()
	// What would install the CNI plugin again, and attach again.
	if err := gone(apps.DaemonSets(namespace).Delete(ctx, nodeSet, metav1.DeleteOptions{})); err != nil {
		return fmt.Errorf("delete DaemonSet %s: %w", nodeSet, err)
	}
	if err := r.waitPods(ctx, names, nodeSet); err != nil {
		return err
	}
	r.say("node pods have ended; cleaning %d nodes", len(names))
	for _, n := range names {
		if err := r.startPod(ctx, n, t); err != nil {
			return err
		}
	}
	if err := r.waitClean(ctx, names); err != nil {
		return err
	}
	if err := r.deletePods(ctx, names); err != nil {
		return err
	}
	if err := gone(apps.DaemonSets(namespace).Delete(ctx, ztunnelSet, metav1.DeleteOptions{})); err != nil {
		return fmt.Errorf("delete DaemonSet %s: %w", ztunnelSet, err)
	}
	return r.waitPods(ctx, names, ztunnelSet)
}

// podName keeps the dots of a node's name: a.b and a-b are two.
func podName(node string) string { return template + "-" + node }

// startPod replaces what an earlier run left.
func (r remover) startPod(ctx context.Context, node string, t corev1.PodTemplateSpec) error {
	pods := r.Client.CoreV1().Pods(namespace)
	p := &corev1.Pod{ObjectMeta: *t.ObjectMeta.DeepCopy(), Spec: *t.Spec.DeepCopy()}
	p.Name, p.Namespace, p.Spec.NodeName = podName(node), namespace, node
	return r.until(ctx, "an earlier pod's end on "+node, func() (string, error) {
		_, err := pods.Create(ctx, p, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return "pod " + p.Name, gone(pods.Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
		}
		return "", err
	})
}

// waitClean waits for the pods' success.
func (r remover) waitClean(ctx context.Context, nodes []string) error {
	return r.until(ctx, "nodes to be clean", func() (string, error) {
		list, err := r.list(ctx, template)
		if err != nil {
			return "", err
		}
		var missing []string
		for _, n := range nodes {
			i := slices.IndexFunc(list, func(p corev1.Pod) bool { return p.Name == podName(n) })
			if i < 0 {
				return "", fmt.Errorf("pod %s, which cleans node %s, is gone: run it again", podName(n), n)
			}
			if list[i].Status.Phase != corev1.PodSucceeded {
				missing = append(missing, n+state(&list[i]))
			}
		}
		return strings.Join(missing, ", "), nil
	})
}

// state is what the pod's containers say of a failure.
func state(p *corev1.Pod) string {
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		for _, s := range []corev1.ContainerState{c.State, c.LastTerminationState} {
			switch {
			case s.Waiting != nil && s.Waiting.Reason != "PodInitializing" && s.Waiting.Reason != "ContainerCreating":
				return fmt.Sprintf(" (%s: %s %s)", c.Name, s.Waiting.Reason, s.Waiting.Message)
			case s.Terminated != nil && s.Terminated.ExitCode != 0:
				return fmt.Sprintf(" (%s: exit code %d %s)", c.Name, s.Terminated.ExitCode, strings.TrimSpace(s.Terminated.Message))
			}
		}
	}
	return ""
}

func (r remover) deletePods(ctx context.Context, nodes []string) error {
	for _, n := range nodes {
		if err := gone(r.Client.CoreV1().Pods(namespace).Delete(ctx, podName(n), metav1.DeleteOptions{GracePeriodSeconds: new(int64)})); err != nil {
			return fmt.Errorf("delete pod: %w", err)
		}
	}
	return r.waitPods(ctx, nodes, template)
}

// waitPods waits until no pod of that name label is on the nodes; those on others can't end.
func (r remover) waitPods(ctx context.Context, nodes []string, name string) error {
	return r.until(ctx, name+" to end", func() (string, error) {
		list, err := r.list(ctx, name)
		if err != nil {
			return "", err
		}
		var left []string
		for _, p := range list {
			if slices.Contains(nodes, p.Spec.NodeName) {
				left = append(left, p.Name+" on "+p.Spec.NodeName)
			}
		}
		return strings.Join(left, ", "), nil
	})
}

func (r remover) list(ctx context.Context, name string) ([]corev1.Pod, error) {
	l, err := r.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + name})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	return l.Items, nil
}

// until looks until nothing is missing.
func (r remover) until(ctx context.Context, what string, look func() (missing string, err error)) error {
	t := time.NewTicker(lookInterval)
	defer t.Stop()
	for {
		missing, err := look()
		if err != nil {
			return err
		}
		if missing == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; missing: %s", what, ctx.Err(), missing)
		case <-t.C:
		}
	}
}

// gone takes what is missing for deleted.
func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

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
)

// cleanNodes ends the node pods, runs the pod that cleans on each node, and then ends the ztunnels.
func (r remover) cleanNodes(ctx context.Context, p plan) error {
	// What would install the CNI plugin again, and attach again.
	if err := r.endSet(ctx, nodeSet, p.ready); err != nil {
		return err
	}
	if p.pod != nil {
		r.say("node pods have ended; cleaning %d nodes", len(p.ready))
		if err := r.runOn(ctx, p.ready, *p.pod); err != nil {
			return err
		}
	}
	return r.endSet(ctx, ztunnelSet, p.ready)
}

// endSet deletes a DaemonSet, and waits for its pods' end on these nodes.
func (r remover) endSet(ctx context.Context, name string, nodes []string) error {
	if err := gone(r.Client.AppsV1().DaemonSets(namespace).Delete(ctx, name, metav1.DeleteOptions{})); err != nil {
		return fmt.Errorf("delete DaemonSet %s: %w", name, err)
	}
	return r.waitPods(ctx, nodes, name)
}

// runOn runs a pod to its success on each node, and deletes it.
func (r remover) runOn(ctx context.Context, nodes []string, t corev1.PodTemplateSpec) error {
	for _, n := range nodes {
		if err := r.startPod(ctx, n, t); err != nil {
			return err
		}
	}
	if err := r.waitClean(ctx, nodes); err != nil {
		return err
	}
	return r.deletePods(ctx, nodes)
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
		list, err := r.list(ctx, partName+"="+template)
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

// state is what the pod or its containers say of a failure.
func state(p *corev1.Pod) string {
	if p.Status.Reason != "" { // the kubelet did not take it
		return fmt.Sprintf(" (%s: %s)", p.Status.Reason, p.Status.Message)
	}
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

// waitPods waits until no pod of that name label runs on the nodes; those on others can't end.
func (r remover) waitPods(ctx context.Context, nodes []string, name string) error {
	return r.until(ctx, name+" to end", func() (string, error) {
		list, err := r.list(ctx, partName+"="+name)
		if err != nil {
			return "", err
		}
		var left []string
		for _, p := range list {
			if slices.Contains(nodes, p.Spec.NodeName) && !over(&p, time.Now()) {
				left = append(left, p.Name+" on "+p.Spec.NodeName)
			}
		}
		return strings.Join(left, ", "), nil
	})
}

// over says whether nothing of a pod runs any more, nor will. Its object may last far longer: where a CNI chain is broken,
// if by Warren's own entry that is to be removed, its kubelet can't take the sandbox down.
func over(p *corev1.Pod, now time.Time) bool {
	if p.DeletionTimestamp == nil {
		return false
	}
	ended := 0
	for _, c := range p.Status.ContainerStatuses {
		switch {
		case c.State.Running != nil:
			return false
		case c.State.Terminated != nil:
			ended++
		}
	}
	// One that never ran might be starting just now, but not for longer than its grace, which ends at that time.
	return ended == len(p.Spec.Containers) || now.After(p.DeletionTimestamp.Time)
}

// abandon deletes Warren's pods on these nodes from the API at once. Nobody is there to say that they have ended, so they would
// stay, and the namespace with them. Their owners are deleted: none comes again.
func (r remover) abandon(ctx context.Context, nodes []string) error {
	if len(nodes) == 0 {
		return nil
	}
	pods := r.Client.CoreV1().Pods(namespace)
	return r.until(ctx, "the pods of skipped nodes to go", func() (string, error) {
		list, err := r.list(ctx, anyPart)
		if err != nil {
			return "", err
		}
		var left []string
		for _, p := range list {
			if !slices.Contains(nodes, p.Spec.NodeName) {
				continue
			}
			if err := gone(pods.Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})); err != nil {
				return "", fmt.Errorf("delete pod %s of skipped node %s: %w", p.Name, p.Spec.NodeName, err)
			}
			left = append(left, p.Name+" on "+p.Spec.NodeName)
		}
		return strings.Join(left, ", "), nil
	})
}

func (r remover) list(ctx context.Context, selector string) ([]corev1.Pod, error) {
	l, err := r.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
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

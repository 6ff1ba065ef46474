// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// workloads are the DaemonSets and the Deployment, whether all their pods are there, ready and of one version.
func (c *Cluster) workloads(ctx context.Context) (out []Finding) {
	versions := map[string]bool{}
	for _, name := range []string{NodePart, ZtunnelPart} {
		check := "DaemonSet " + name
		d, err := get[appsv1.DaemonSet](ctx, c, appsv1.SchemeGroupVersion.WithResource("daemonsets"), c.system, name)
		if err != nil {
			out = append(out, failed(check, err))
			continue
		}
		s := d.Status
		out = append(out, rollout(check, s.NumberReady, s.UpdatedNumberScheduled, s.DesiredNumberScheduled, s.ObservedGeneration < d.Generation))
		versionsOf(&d.Spec.Template.Spec, versions)
	}
	check := "Deployment " + ControlPart
	d, err := get[appsv1.Deployment](ctx, c, appsv1.SchemeGroupVersion.WithResource("deployments"), c.system, ControlPart)
	if err != nil {
		return append(out, failed(check, err))
	}
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	out = append(out, rollout(check, d.Status.ReadyReplicas, d.Status.UpdatedReplicas, want, d.Status.ObservedGeneration < d.Generation))
	if versionsOf(&d.Spec.Template.Spec, versions); len(versions) > 1 {
		var all []string
		for v := range versions {
			all = append(all, v)
		}
		slices.Sort(all)
		return append(out, Finding{"versions", Warning, "several images: " + strings.Join(all, ", ")})
	}
	return append(out, Finding{Check: "versions", State: Good})
}

func versionsOf(s *corev1.PodSpec, into map[string]bool) {
	for _, c := range s.Containers {
		into[c.Image] = true
	}
}

func rollout(check string, ready, updated, want int32, unseen bool) Finding {
	f := Finding{check, Good, fmt.Sprintf("%d of %d ready", ready, want)}
	switch {
	case want == 0:
		f.State, f.Detail = Bad, "no pod is wanted: no node fits, or no replica"
	case ready < want:
		f.State = Bad
	case updated < want || unseen:
		f.State, f.Detail = Warning, f.Detail+fmt.Sprintf(", %d updated: a rollout is under way", updated)
	}
	return f
}

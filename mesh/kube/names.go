// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// names are a pod's names for telemetry, as ambient derives them.
type names struct{ workload, kind, canonical, revision string }

func namesOf(m *metav1.ObjectMeta) names {
	n := names{workload: m.Name, kind: "pod"}
	if owner := metav1.GetControllerOf(m); owner != nil {
		n.workload, n.kind = ownerName(owner, m.Labels)
	}
	first := func(fallback string, keys ...string) string {
		for _, k := range keys {
			if v := m.Labels[k]; v != "" {
				return v
			}
		}
		return fallback
	}
	n.canonical = first(n.workload, "service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
	n.revision = first("latest", "service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
	return n
}

// ownerName names what the user wrote rather than what a controller made of it: a ReplicaSet's Deployment,
// a Job's CronJob.
func ownerName(o *metav1.OwnerReference, labels map[string]string) (name, kind string) {
	switch o.Kind {
	case "ReplicaSet":
		if hash := labels["pod-template-hash"]; hash != "" {
			if d, ok := strings.CutSuffix(o.Name, "-"+hash); ok && d != "" {
				return d, "deployment"
			}
		}
		if i := strings.LastIndexByte(o.Name, '-'); i > 0 {
			return o.Name[:i], "deployment"
		}
		return o.Name, "deployment"
	case "Job":
		if d, ok := cronJob(o.Name); ok {
			return d, "cronjob"
		}
	}
	return o.Name, strings.ToLower(o.Kind)
}

// cronJob splits the schedule time, in minutes since 1970, off the name of a CronJob's Job.
func cronJob(job string) (string, bool) {
	i := strings.LastIndexByte(job, '-')
	if i <= 0 || len(job)-i-1 < 8 || len(job)-i-1 > 11 {
		return "", false
	}
	for _, r := range job[i+1:] {
		if r < '0' || r > '9' {
			return "", false
		}
	}
	return job[:i], true
}

// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/mesh/kube"
)

// MinKernel is the oldest kernel that has all that Warren asks of it (tcx).
const MinKernel = "6.6"

// kernels are the nodes' own words. What a kernel really has the broker tries, and says when it starts.
func (c *Cluster) kernels(ctx context.Context) []Finding {
	const check = "kernels"
	nodes, err := list[corev1.Node](ctx, c, nodesResource, "", metav1.ListOptions{})
	if err != nil {
		return []Finding{failed(check, err)}
	}
	var old []string
	for _, n := range nodes {
		if i := n.Status.NodeInfo; i.OperatingSystem == "linux" && !atLeast(i.KernelVersion, MinKernel) {
			old = append(old, n.Name+" has "+i.KernelVersion)
		}
	}
	if len(old) > 0 {
		return []Finding{{check, Bad, "Linux " + MinKernel + " is needed: " + strings.Join(old, ", ")}}
	}
	return []Finding{{check, Good, fmt.Sprintf("%d nodes with Linux %s or newer", len(nodes), MinKernel)}}
}

// atLeast compares major and minor number.
func atLeast(version, want string) bool {
	number := func(s string, i int) int {
		parts := strings.FieldsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
		if i >= len(parts) {
			return 0
		}
		n, _ := strconv.Atoi(parts[i])
		return n
	}
	return number(version, 0) > number(want, 0) || number(version, 0) == number(want, 0) && number(version, 1) >= number(want, 1)
}

// pods are those of enrolled namespaces that are not captured, each with the word its node published.
func (c *Cluster) pods(ctx context.Context) []Finding {
	const check = "pods of enrolled namespaces"
	namespaces, err := list[metav1.PartialObjectMetadata](ctx, c, namespacesResource, "", metav1.ListOptions{})
	if err != nil {
		return []Finding{failed(check, err)}
	}
	var out []Finding
	captured, enrolled := 0, 0
	for _, n := range namespaces {
		if in, _ := kube.Enrols(&n.ObjectMeta); !in || slices.Contains([]string{"kube-system", c.system}, n.Name) {
			continue
		}
		enrolled++
		pods, err := list[corev1.Pod](ctx, c, podsResource, n.Name, metav1.ListOptions{})
		if err != nil {
			return append(out, failed(check, err))
		}
		for i := range pods {
			p := &pods[i]
			word := p.Annotations[kube.KeyCaptured]
			_, said := kube.Enrols(&p.ObjectMeta)
			switch {
			case finished(p), p.DeletionTimestamp != nil:
			case word == kube.CapturedTrue:
				captured++
			case p.Spec.HostNetwork, word == kube.InjectedSidecar, said:
				out = append(out, Finding{"pod " + p.Namespace + "/" + p.Name, Warning, "outside the mesh by itself: " + outside(p, word)})
			case word == "":
				out = append(out, Finding{"pod " + p.Namespace + "/" + p.Name, Bad, "its node reports nothing of it: " + phase(p)})
			default:
				out = append(out, Finding{"pod " + p.Namespace + "/" + p.Name, Bad, word})
			}
		}
	}
	return append([]Finding{{check, Good, fmt.Sprintf("%d captured, %d not, in %d namespaces", captured, len(out), enrolled)}}, out...)
}

func outside(p *corev1.Pod, word string) string {
	if p.Spec.HostNetwork {
		return kube.HostNetwork
	}
	if word == "" {
		return kube.OptedOut
	}
	return word
}

func phase(p *corev1.Pod) string {
	if p.Spec.NodeName == "" {
		return "it is not scheduled"
	}
	return "it is " + string(p.Status.Phase) + " on " + p.Spec.NodeName
}

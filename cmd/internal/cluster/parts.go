// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What Warren's pods are called, by the label app.kubernetes.io/name.
const (
	NodePart    = "warren-node" // broker and agent
	ZtunnelPart = "warren-ztunnel"
	ControlPart = "warren-control"

	partLabel = "app.kubernetes.io/name"
)

// Ports of a part's pages, within its pod.
const (
	DebugPort = 15000
	ReadyPort = 15021
)

// Part is a pod of Warren's.
type Part struct {
	Part, Pod, Node string
	Ready           bool
	// Version is the tag of its image, or the digest.
	Version string
	// Why it is not ready, as far as its object tells.
	Why string

	since metav1.Time
}

// Parts are all of Warren's pods, those on their way out aside, ordered by part, node and age, the newest that is ready
// first. That there is none at all is an error.
func (c *Cluster) Parts(ctx context.Context) (out []Part, err error) {
	pods, err := list[corev1.Pod](ctx, c, podsResource, c.system, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range pods {
		p := &pods[i]
		if !slices.Contains([]string{NodePart, ZtunnelPart, ControlPart}, p.Labels[partLabel]) || p.DeletionTimestamp != nil || finished(p) {
			continue
		}
		out = append(out, partOf(p))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no pod of Warren in namespace %s (is it installed? --system names another namespace)", c.system)
	}
	slices.SortFunc(out, func(a, b Part) int {
		ready := map[bool]int{true: 0, false: 1}
		return cmp.Or(cmp.Compare(a.Part, b.Part), cmp.Compare(a.Node, b.Node), ready[a.Ready]-ready[b.Ready], b.since.Compare(a.since.Time), cmp.Compare(a.Pod, b.Pod))
	})
	return out, nil
}

func finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

func partOf(p *corev1.Pod) Part {
	out := Part{Part: p.Labels[partLabel], Pod: p.Name, Node: p.Spec.NodeName, since: p.CreationTimestamp, Why: string(p.Status.Phase)}
	if len(p.Spec.Containers) > 0 {
		image := p.Spec.Containers[0].Image
		out.Version = image[strings.LastIndexAny(image, ":@/")+1:]
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			out.Ready, out.Why = true, ""
			return out
		}
	}
	for _, s := range p.Status.ContainerStatuses {
		switch w := s.State.Waiting; {
		case w != nil:
			out.Why = strings.TrimSuffix(fmt.Sprintf("container %s: %s, %s", s.Name, w.Reason, w.Message), ", ")
		case !s.Ready && s.RestartCount > 0:
			out.Why = fmt.Sprintf("container %s is not ready, restarted %d times", s.Name, s.RestartCount)
		case !s.Ready:
			out.Why = fmt.Sprintf("container %s is not ready", s.Name)
		}
	}
	return out
}

// Nodes are the names of all nodes.
func (c *Cluster) Nodes(ctx context.Context) (out []string, err error) {
	nodes, err := list[metav1.PartialObjectMetadata](ctx, c, nodesResource, "", metav1.ListOptions{})
	for _, n := range nodes {
		out = append(out, n.Name)
	}
	slices.Sort(out)
	return out, err
}

// Namespaces are the names of all namespaces.
func (c *Cluster) Namespaces(ctx context.Context) (out []string, err error) {
	all, err := list[metav1.PartialObjectMetadata](ctx, c, namespacesResource, "", metav1.ListOptions{})
	for _, n := range all {
		out = append(out, n.Name)
	}
	slices.Sort(out)
	return out, err
}

// NodeOf is the node of a pod, named as warrenctl explain names ends: namespace/name, pod/namespace/name, a uid or an
// address. "" when there is no such pod.
func (c *Cluster) NodeOf(ctx context.Context, end string) (string, error) {
	o := metav1.ListOptions{}
	var fits func(*corev1.Pod) bool
	namespace, name, named := strings.Cut(strings.TrimPrefix(end, "pod/"), "/")
	switch a, err := netip.ParseAddr(strings.Trim(end, "[]")); {
	case err == nil:
		a = a.Unmap()
		fits = func(p *corev1.Pod) bool {
			return !p.Spec.HostNetwork && slices.ContainsFunc(p.Status.PodIPs, func(ip corev1.PodIP) bool { b, _ := netip.ParseAddr(ip.IP); return b == a })
		}
		namespace = ""
	case named:
		o.FieldSelector = "metadata.name=" + name
		fits = func(p *corev1.Pod) bool { return p.Name == name }
	default:
		namespace = ""
		fits = func(p *corev1.Pod) bool { return string(p.UID) == end }
	}
	pods, err := list[corev1.Pod](ctx, c, podsResource, namespace, o)
	if err != nil {
		return "", err
	}
	for i := range pods {
		if fits(&pods[i]) && !finished(&pods[i]) {
			return pods[i].Spec.NodeName, nil
		}
	}
	return "", nil
}

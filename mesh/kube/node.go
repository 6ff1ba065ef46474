// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/warren-mesh/warren/mesh"
)

type node struct {
	cidrs        []netip.Prefix
	region, zone string
}

func nodeFrom(o *corev1.Node) (*node, field.ErrorList) {
	spec := field.NewPath("spec")
	n := &node{region: o.Labels[corev1.LabelTopologyRegion], zone: o.Labels[corev1.LabelTopologyZone]}
	var errs field.ErrorList
	n.cidrs, errs = parsePrefixes(spec.Child("podCIDRs"), o.Spec.PodCIDRs)
	if o.Spec.PodCIDR != "" {
		p, err := parsePrefix(spec.Child("podCIDR"), o.Spec.PodCIDR)
		if err != nil {
			errs = append(errs, err)
		}
		n.cidrs = append(n.cidrs, p)
	}
	return n, errs
}

func (t *Translator) putNode(k Key, o *corev1.Node) (errs, partial field.ErrorList) {
	n, errs := nodeFrom(o)
	if len(errs) > 0 {
		return errs, nil
	}
	old := t.nodes[k.Name]
	t.nodes[k.Name] = n
	t.dirtyConfig = true
	if old == nil || old.region != n.region || old.zone != n.zone {
		t.dirtyPods.addAll(t.podsByNode[k.Name])
	}
	return nil, nil
}

func (t *Translator) deleteNode(k Key) {
	delete(t.nodes, k.Name)
	t.dirtyConfig = true
	t.dirtyPods.addAll(t.podsByNode[k.Name])
}

func (t *Translator) putServiceCIDR(k Key, o *networkingv1.ServiceCIDR) (errs, partial field.ErrorList) {
	cidrs, errs := parsePrefixes(field.NewPath("spec", "cidrs"), o.Spec.CIDRs)
	if len(errs) > 0 {
		return errs, nil
	}
	t.serviceCIDRs[k.Name] = cidrs
	t.dirtyConfig = true
	return nil, nil
}

func (t *Translator) deleteServiceCIDR(k Key) {
	delete(t.serviceCIDRs, k.Name)
	t.dirtyConfig = true
}

// meshConfig gathers what holds for the whole mesh.
func (t *Translator) meshConfig() *mesh.Config {
	c := t.base().Clone()
	cidrs := c.ClusterCIDRs
	for _, n := range t.nodes {
		cidrs = append(cidrs, n.cidrs...)
	}
	for _, ps := range t.serviceCIDRs {
		cidrs = append(cidrs, ps...)
	}
	c.ClusterCIDRs, c.Exceptions = sortedPrefixes(cidrs), sortedPrefixes(c.Exceptions)
	return c
}

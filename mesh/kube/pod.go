// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/warren-mesh/warren/mesh"
)

// pod is what the mesh wants to know of a Pod, and what this process saw of it (history).
type pod struct {
	name        mesh.Name
	uid, node   string
	account     string
	labels      map[string]string // the object's own
	addresses   []netip.Addr
	hostNetwork bool
	sidecar     bool
	choice      choice
	ready       bool
	draining    bool // terminates, and still passes its readiness probe
	running     bool
	published   string
	except      []netip.Prefix
	names       names
	history
}

// podFrom reads a pod. It returns nil without an error for a pod that has finished: it has left the mesh.
// A terminating pod keeps identity and addresses but is not ready, at most draining. partial names what is not applied.
func podFrom(o *corev1.Pod) (p *pod, errs, partial field.ErrorList) {
	meta, status := field.NewPath("metadata"), field.NewPath("status")
	if o.UID == "" {
		errs = append(errs, field.Required(meta.Child("uid"), "a pod is known by its uid"))
	}
	if o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed {
		return nil, errs, nil
	}
	switch o.Status.Phase {
	case "", corev1.PodPending, corev1.PodRunning, corev1.PodUnknown:
	default:
		errs = append(errs, field.NotSupported(status.Child("phase"), o.Status.Phase,
			[]corev1.PodPhase{corev1.PodPending, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown}))
	}
	p = &pod{
		name:        mesh.Name{Namespace: o.Namespace, Name: o.Name},
		uid:         string(o.UID),
		node:        o.Spec.NodeName,
		account:     o.Spec.ServiceAccountName,
		labels:      o.Labels,
		hostNetwork: o.Spec.HostNetwork,
		published:   o.Annotations[KeyCaptured],
		names:       namesOf(&o.ObjectMeta),
	}
	if p.account == "" {
		p.account = "default"
	}
	_, p.sidecar = o.Annotations[keySidecarStatus]
	ready := podReady(o)
	p.ready = ready && o.DeletionTimestamp == nil
	p.draining = ready && o.DeletionTimestamp != nil
	p.running = ready || o.Status.Phase == corev1.PodRunning
	var more field.ErrorList
	p.choice, partial = choiceOf(&o.ObjectMeta)
	p.addresses, more = podAddresses(status, &o.Status)
	errs = append(errs, more...)
	p.except, more = podExcept(meta.Child("annotations").Key(KeyExcept), o.Annotations[KeyExcept])
	partial = append(partial, more...)
	if len(errs) > 0 {
		return nil, errs, nil
	}
	return p, nil, partial
}

// maxPodExcept is how many exceptions a pod may have: the kernel has room for so many of every pod (bpf.MaxExcept).
const maxPodExcept = 16

// podExcept reads a pod's own exceptions. A value that is wrong anywhere is not applied: the pod stays captured whole.
func podExcept(path *field.Path, v string) ([]netip.Prefix, field.ErrorList) {
	if v == "" {
		return nil, nil
	}
	out, errs := parsePrefixes(path, strings.Split(v, ","))
	if len(out) > maxPodExcept {
		errs = append(errs, field.TooMany(path, len(out), maxPodExcept))
	}
	for i, p := range out {
		if spansIPv4(p) || p.Addr().Is4In6() {
			errs = append(errs, field.Invalid(path.Index(i), p.String(), "an IPv6 prefix that spans the IPv4-mapped addresses (name IPv4 prefixes as IPv4)"))
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return sortedPrefixes(out), nil
}

func podReady(o *corev1.Pod) bool {
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func podAddresses(path *field.Path, s *corev1.PodStatus) (out []netip.Addr, errs field.ErrorList) {
	add := func(path *field.Path, v string) {
		a, err := parseAddr(path, v)
		switch {
		case err != nil:
			errs = append(errs, err)
		case !slices.Contains(out, a):
			out = append(out, a)
		}
	}
	if s.PodIP != "" {
		add(path.Child("podIP"), s.PodIP)
	}
	for i, ip := range s.PodIPs {
		add(path.Child("podIPs").Index(i).Child("ip"), ip.IP)
	}
	return out, errs
}

func (t *Translator) putPod(k Key, o *corev1.Pod) (errs, partial field.ErrorList) {
	p, errs, partial := podFrom(o)
	if p != nil && t.cfg.IgnoreCaptured {
		p.published = ""
	}
	old := t.pods[k.meshName()]
	if old != nil && o.UID != "" && old.uid != string(o.UID) {
		t.deletePod(k) // re-created: the last good one was another pod
		old = nil
	}
	if p != nil {
		if other, ok := t.podUIDs[p.uid]; ok && other != p.name {
			errs = append(errs, field.Duplicate(field.NewPath("metadata", "uid"), p.uid+" (also "+other.String()+")"))
		}
	}
	switch {
	case len(errs) > 0:
		return errs, nil
	case p == nil:
		t.deletePod(k)
		return nil, nil
	case old != nil:
		p.follow(old)
		if p.choice == unreadable {
			p.choice = old.choice
		}
		t.unindexPod(old)
	}
	t.pods[p.name] = p
	t.indexPod(p)
	return nil, partial
}

func (t *Translator) deletePod(k Key) {
	if p := t.pods[k.meshName()]; p != nil {
		t.unindexPod(p)
		delete(t.pods, p.name)
	}
}

// indexPod makes the pod findable and has everything that depends on it looked at again.
func (t *Translator) indexPod(p *pod) {
	t.podUIDs[p.uid] = p.name
	addTo(t.podsByNamespace, p.name.Namespace, p.name)
	addTo(t.podsByNode, p.node, p.name)
	t.dirtyPods.add(p.name)
	if p.choice == in && !p.hostNetwork {
		addTo(t.optedIn, p.name.Namespace, p.name)
		t.dirtyNamespaces = true
	}
	t.dirtyNamespaces = t.dirtyNamespaces || t.cfg.ImplicitNamespaces
	if p.hostNetwork {
		return
	}
	for _, a := range p.addresses {
		addFew(t.podsByAddr, a, p.name)
		t.dirtySlices.addFew(t.slicesByAddr[a])
	}
}

func (t *Translator) unindexPod(p *pod) {
	delete(t.podUIDs, p.uid)
	removeFrom(t.podsByNamespace, p.name.Namespace, p.name)
	removeFrom(t.podsByNode, p.node, p.name)
	if len(t.optedIn[p.name.Namespace]) > 0 {
		removeFrom(t.optedIn, p.name.Namespace, p.name)
		t.dirtyNamespaces = true
	}
	t.dirtyNamespaces = t.dirtyNamespaces || t.cfg.ImplicitNamespaces
	t.dirtyPods.add(p.name)
	for _, a := range p.addresses {
		removeFew(t.podsByAddr, a, p.name)
		t.dirtySlices.addFew(t.slicesByAddr[a])
	}
}

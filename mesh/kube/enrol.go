// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	// KeyMesh is the label or annotation that enrols: "enabled" or "disabled".
	KeyMesh = "warren.dev/mesh"
	// KeyDataplaneMode is ambient's label: "ambient" or "none". Other values are somebody else's and ignored.
	KeyDataplaneMode = "istio.io/dataplane-mode"
	// KeyCaptured is the annotation by which a pod's own node reports: CapturedTrue or a reason word.
	KeyCaptured = "warren.dev/captured"
	// KeyExcept is a pod's annotation with further CIDRs, comma-separated, that it reaches directly: at most 16.
	KeyExcept = "warren.dev/except"

	keySidecarStatus = "sidecar.istio.io/status"

	// CapturedTrue is KeyCaptured's value for a captured pod.
	CapturedTrue = "true"
)

// Why a pod is not enrolled: a closed set of words, the values KeyCaptured takes for pods the mesh leaves
// alone. A pod that is enrolled but could not be captured carries another word, from its node.
const (
	// HostNetwork: the pod shares its node's network.
	HostNetwork = "HostNetwork"
	// ExcludedNamespace: the pod's namespace is never captured.
	ExcludedNamespace = "ExcludedNamespace"
	// InjectedSidecar: the pod carries an Istio sidecar (annotation sidecar.istio.io/status).
	InjectedSidecar = "InjectedSidecar"
	// OptedOut: the pod itself says that it stays out.
	OptedOut = "OptedOut"
	// NotEnrolled: neither the pod nor its namespace asks for the mesh.
	NotEnrolled = "NotEnrolled"
	// NamespaceUnknown: the pod's namespace has not been seen yet, so nobody can tell.
	NamespaceUnknown = "NamespaceUnknown"
	// EnrolmentUnreadable: the pod's own word, or its namespace's, is none, so nobody can tell.
	EnrolmentUnreadable = "EnrolmentUnreadable"
)

// Undecided reports whether nobody can tell now if a pod that is not enrolled for this reason belongs to the mesh.
func Undecided(reason string) bool {
	return reason == NamespaceUnknown || reason == EnrolmentUnreadable
}

// leftAlone reports whether a published word says no more than that the pod was not enrolled.
func leftAlone(word string) bool {
	switch word {
	case "", HostNetwork, ExcludedNamespace, InjectedSidecar, OptedOut, NotEnrolled, NamespaceUnknown, EnrolmentUnreadable:
		return true
	}
	return false
}

// choice is what one object says about enrolment.
type choice uint8

const (
	unsaid choice = iota
	in
	out
	unreadable
)

// choiceOf reads an object's own word: warren.dev before istio.io, label before annotation. One that is wrong anywhere is
// unreadable.
func choiceOf(m *metav1.ObjectMeta) (choice, field.ErrorList) {
	var errs field.ErrorList
	result := unsaid
	say := func(c choice) {
		if result == unsaid {
			result = c
		}
	}
	meta := field.NewPath("metadata")
	for _, at := range []struct {
		path   *field.Path
		values map[string]string
	}{{meta.Child("labels"), m.Labels}, {meta.Child("annotations"), m.Annotations}} {
		switch v, ok := at.values[KeyMesh]; {
		case !ok:
		case v == "enabled":
			say(in)
		case v == "disabled":
			say(out)
		default:
			errs = append(errs, field.NotSupported(at.path.Key(KeyMesh), v, []string{"enabled", "disabled"}))
		}
	}
	for _, values := range []map[string]string{m.Labels, m.Annotations} {
		switch values[KeyDataplaneMode] {
		case "ambient":
			say(in)
		case "none":
			say(out)
		}
	}
	if len(errs) > 0 {
		return unreadable, errs
	}
	return result, nil
}

// Enrols reads what an object says of enrolment by itself: in, or out; both false when it says nothing that can be read.
func Enrols(m *metav1.ObjectMeta) (yes, no bool) {
	c, _ := choiceOf(m)
	return c == in, c == out
}

// enrolled decides whether a pod belongs to the mesh, and if not, by which word. What can never be captured
// comes first; then the pod's own word; then its namespace's.
func (t *Translator) enrolled(p *pod) (bool, string) {
	ns, known := t.namespaces[p.name.Namespace]
	known = known || t.cfg.ImplicitNamespaces
	switch {
	case p.hostNetwork:
		return false, HostNetwork
	case slices.Contains(t.cfg.ExcludedNamespaces, p.name.Namespace):
		return false, ExcludedNamespace
	case p.sidecar:
		return false, InjectedSidecar
	case p.choice == out:
		return false, OptedOut
	case p.choice == in:
		return true, ""
	case p.choice == unsaid && !known:
		return undecided(!leftAlone(p.published), NamespaceUnknown)
	case p.choice == unreadable, ns == unreadable:
		return undecided(!leftAlone(p.published) || p.enrolledSeen, EnrolmentUnreadable)
	case ns == in:
		return true, ""
	}
	return false, NotEnrolled
}

// undecided is for a pod of which nobody can tell now: it stays in the mesh if it was there, by its node's word or as this
// process saw it. A wrong word must neither let go of a pod nor take in another.
func undecided(was bool, why string) (bool, string) {
	if was {
		return true, ""
	}
	return false, why
}

// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	typev1beta1 "istio.io/api/type/v1beta1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/warren-mesh/warren/mesh"
)

// selectorFrom reads the labels a policy selects pods by; none selects all of its namespace.
func selectorFrom(path *field.Path, s *typev1beta1.WorkloadSelector) (map[string]string, field.ErrorList) {
	var errs field.ErrorList
	labels := s.GetMatchLabels()
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		at := path.Child("matchLabels").Key(k)
		switch {
		case k == "":
			errs = append(errs, field.Required(at, "a label has a key"))
		case strings.Contains(k+labels[k], "*"):
			errs = append(errs, field.Invalid(at, labels[k], "labels are compared as they are, without wildcards"))
		}
	}
	return labels, errs
}

// selected reports whether the labels have all of the selector's.
func selected(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// touchSelected has the pods that a policy of the namespace selects looked at again.
func (t *Translator) touchSelected(namespace string, selector map[string]string) {
	touch := func(n mesh.Name) {
		if selected(selector, t.pods[n].labels) {
			t.dirtyPods.add(n)
		}
	}
	if namespace == t.cfg.RootNamespace {
		for n := range t.pods {
			touch(n)
		}
		return
	}
	for n := range t.podsByNamespace[namespace] {
		touch(n)
	}
}

func compareNames(a, b mesh.Name) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

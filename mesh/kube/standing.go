// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"maps"
	"slices"
)

// Namespaces is how the cluster's namespaces stand to the mesh; each list is sorted.
type Namespaces struct {
	// Enrolled have pods that belong to the mesh, by the namespace's word or by their own.
	Enrolled []string
	// Excluded are never captured.
	Excluded []string
	// Outside are the others that exist, apart from those whose enrolment can't be read.
	Outside []string
}

// standing looks at all namespaces again if one may stand otherwise than before.
func (t *Translator) standing() *Namespaces {
	if !t.dirtyNamespaces {
		return nil
	}
	t.dirtyNamespaces = false
	names := set[string]{}
	for n := range t.namespaces {
		names.add(n)
	}
	for n := range t.optedIn {
		names.add(n)
	}
	if t.cfg.ImplicitNamespaces {
		for n := range t.podsByNamespace {
			names.add(n)
		}
	}
	out := &Namespaces{Excluded: slices.Sorted(slices.Values(t.cfg.ExcludedNamespaces))}
	for _, n := range slices.Sorted(maps.Keys(names)) {
		switch {
		case slices.Contains(t.cfg.ExcludedNamespaces, n):
		case t.namespaces[n] == in || len(t.optedIn[n]) > 0:
			out.Enrolled = append(out.Enrolled, n)
		case t.namespaces[n] == unreadable:
		default:
			out.Outside = append(out.Outside, n)
		}
	}
	return out
}

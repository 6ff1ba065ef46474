// SPDX-License-Identifier: Apache-2.0

package kube

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// putNamespace takes a namespace's enrolment; its pods are looked at again.
func (t *Translator) putNamespace(k Key, n *corev1.Namespace) (errs, partial field.ErrorList) {
	c, errs := choiceOf(&n.ObjectMeta)
	if len(errs) > 0 {
		return errs, nil
	}
	if old, ok := t.namespaces[k.Name]; !ok || old != c {
		t.namespaces[k.Name] = c
		t.dirtyNamespaces = true
		t.touchNamespace(k.Name)
	}
	return nil, nil
}

func (t *Translator) deleteNamespace(k Key) {
	delete(t.namespaces, k.Name)
	t.dirtyNamespaces = true
	t.touchNamespace(k.Name)
}

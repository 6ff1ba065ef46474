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
	t.setNamespace(k.Name, c)
	return nil, nil
}

// refuseNamespace takes note of a namespace whose enrolment can't be read, where there is no last good one.
func (t *Translator) refuseNamespace(k Key) {
	if _, ok := t.namespaces[k.Name]; !ok && k.Name != "" {
		t.setNamespace(k.Name, unreadable)
	}
}

func (t *Translator) setNamespace(name string, c choice) {
	if old, ok := t.namespaces[name]; !ok || old != c {
		t.namespaces[name] = c
		t.dirtyNamespaces = true
		t.touchNamespace(name)
	}
}

func (t *Translator) deleteNamespace(k Key) {
	delete(t.namespaces, k.Name)
	t.dirtyNamespaces = true
	t.touchNamespace(k.Name)
}

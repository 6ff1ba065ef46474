// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// builtin are the resources every server has, with their kinds.
var builtin = map[string]string{
	"v1/namespaces": "Namespace", "v1/nodes": "Node", "v1/pods": "Pod", "v1/services": "Service", "v1/events": "Event",
	"v1/secrets": "Secret", "v1/configmaps": "ConfigMap",
	"networking.k8s.io/v1/servicecidrs":  "ServiceCIDR",
	"discovery.k8s.io/v1/endpointslices": "EndpointSlice",
	"coordination.k8s.io/v1/leases":      "Lease",
}

// table is one resource's objects and how they came to be. Objects are replaced, never modified.
type table struct {
	kind    string
	objects map[string]map[string]any
	history []change
}

type change struct {
	rv   int
	verb string // ADDED, MODIFIED, DELETED
	obj  map[string]any
}

func newTable(kind string) *table { return &table{kind: kind, objects: map[string]map[string]any{}} }

// store puts an object; the lock is held.
func (s *Server) store(t *table, o map[string]any) map[string]any {
	u := (&unstructured.Unstructured{Object: o}).DeepCopy()
	verb := "ADDED"
	if u.GetName() == "" && u.GetGenerateName() != "" {
		u.SetName(u.GetGenerateName() + strconv.Itoa(s.rv))
	}
	key := join(u.GetNamespace(), u.GetName())
	if old, ok := t.objects[key]; ok {
		verb = "MODIFIED"
		if u.GetUID() == "" {
			u.SetUID((&unstructured.Unstructured{Object: old}).GetUID())
		}
	}
	if u.GetUID() == "" {
		u.SetUID("uid-" + types.UID(u.GetName()))
	}
	if _, ok, _ := unstructured.NestedString(u.Object, "metadata", "creationTimestamp"); !ok {
		_ = unstructured.SetNestedField(u.Object, time.Now().UTC().Format(time.RFC3339), "metadata", "creationTimestamp")
	}
	u.SetKind(t.kind)
	u.SetResourceVersion(s.next())
	t.objects[key] = u.Object
	t.history = append(t.history, change{s.rv, verb, u.Object})
	return u.Object
}

// remove deletes an object, whether it is there or not; the lock is held.
func (s *Server) remove(t *table, key string) {
	o, ok := t.objects[key]
	if !ok {
		return
	}
	delete(t.objects, key)
	u := (&unstructured.Unstructured{Object: o}).DeepCopy()
	u.SetResourceVersion(s.next())
	t.history = append(t.history, change{s.rv, "DELETED", u.Object})
}

// list returns the objects of a namespace ("" for all) in order of names; the lock is held.
func (t *table) list(namespace string) []map[string]any {
	var out []map[string]any
	for _, key := range slices.Sorted(maps.Keys(t.objects)) {
		if o := t.objects[key]; namespace == "" || (&unstructured.Unstructured{Object: o}).GetNamespace() == namespace {
			out = append(out, o)
		}
	}
	return out
}

// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/mesh"
)

// Event is one object that came, changed or went.
type Event struct {
	// Object is typed and not modified; when Deleted, its name is enough.
	Object  runtime.Object
	Deleted bool
	// Refused: whoever read the object could not, and has told why. Object is its Remnant.
	Refused bool
	// Source is "file:line", or "".
	Source string
}

// Result is what a batch of events changed.
type Result struct {
	Changes []mesh.Change
	// LocalPods are this node's pods that came or changed, RemovedPods the uids of those that went. A pod
	// re-created under its name is in both, with two uids: apply RemovedPods first.
	LocalPods   []LocalPod
	RemovedPods []string
	// Namespaces is how all namespaces stand, nil when nothing changed in that.
	Namespaces *Namespaces
	// Problems the batch's objects have; Translator.Problems gives all that stand.
	Problems []Problem
}

// Translator turns Kubernetes objects into changes of the mesh: a pure state machine, no I/O, no clock but
// Config.Now. Until Synced it only gathers, so that no half of a list is mistaken for the whole. Not safe
// for concurrent use.
type Translator struct {
	cfg Config

	namespaces   map[string]choice
	nodes        map[string]*node
	serviceCIDRs map[string][]netip.Prefix
	settings     settings // of the MeshConfig
	pods         map[mesh.Name]*pod
	services     map[mesh.Name]*mesh.Service
	slices       map[mesh.Name]*slice
	peerAuths    map[string]map[string]*peerAuth // by namespace, then name
	authz        map[mesh.Name]*authzPolicy
	selecting    map[string][]*authzPolicy // by namespace, in order of names: those with a selector
	problems     map[Key][]Problem

	podUIDs         map[string]mesh.Name
	podsByNamespace map[string]set[mesh.Name]
	optedIn         map[string]set[mesh.Name] // by namespace: pods that ask for the mesh themselves
	podsByNode      map[string]set[mesh.Name]
	podsByAddr      map[netip.Addr]few[mesh.Name] // without host-network pods
	slicesByService map[mesh.Name]set[mesh.Name]
	slicesByPod     map[mesh.Name]few[mesh.Name]
	slicesByAddr    map[netip.Addr]few[mesh.Name] // endpoints without a pod reference

	synced                     bool
	dirtyPods, dirtyServices   set[mesh.Name]
	dirtySlices, dirtyAuthz    set[mesh.Name]
	dirtyConfig, dirtyPeerAuth bool
	dirtyNamespaces            bool
	emitted                    emitted
}

// NewTranslator returns a translator that knows no object yet.
func NewTranslator(c Config) *Translator {
	return &Translator{
		cfg:             c.withDefaults(),
		namespaces:      map[string]choice{},
		nodes:           map[string]*node{},
		serviceCIDRs:    map[string][]netip.Prefix{},
		pods:            map[mesh.Name]*pod{},
		services:        map[mesh.Name]*mesh.Service{},
		slices:          map[mesh.Name]*slice{},
		peerAuths:       map[string]map[string]*peerAuth{},
		authz:           map[mesh.Name]*authzPolicy{},
		selecting:       map[string][]*authzPolicy{},
		problems:        map[Key][]Problem{},
		podUIDs:         map[string]mesh.Name{},
		podsByNamespace: map[string]set[mesh.Name]{},
		optedIn:         map[string]set[mesh.Name]{},
		podsByNode:      map[string]set[mesh.Name]{},
		podsByAddr:      map[netip.Addr]few[mesh.Name]{},
		slicesByService: map[mesh.Name]set[mesh.Name]{},
		slicesByPod:     map[mesh.Name]few[mesh.Name]{},
		slicesByAddr:    map[netip.Addr]few[mesh.Name]{},
		dirtyPods:       set[mesh.Name]{},
		dirtyServices:   set[mesh.Name]{},
		dirtySlices:     set[mesh.Name]{},
		dirtyAuthz:      set[mesh.Name]{},
		dirtyConfig:     true,
		dirtyPeerAuth:   true,
		dirtyNamespaces: true,
		emitted:         newEmitted(),
	}
}

// Apply takes a batch of events as one step: within it their order does not matter, except that the last
// about one object counts. Before Synced the result holds problems only.
func (t *Translator) Apply(events []Event) Result {
	var found []Problem
	for _, ev := range events {
		k, err := KeyOf(ev.Object)
		if err != nil {
			found = append(found, Problem{Source: ev.Source, Err: err})
			continue
		}
		delete(t.problems, k)
		switch {
		case ev.Deleted:
			t.remove(k)
			continue
		case ev.Refused:
			t.standIn(k, ev.Object)
			continue
		}
		errs, partial := validName(k, ev.Object)
		if len(errs) == 0 {
			if errs, partial = t.put(k, ev.Object); len(errs) > 0 {
				t.standIn(k, ev.Object)
			}
		}
		if ps := append(problems(k, ev.Source, errs, false), problems(k, ev.Source, partial, true)...); len(ps) > 0 {
			if p, ok := ev.Object.(*corev1.Pod); ok {
				for i := range ps {
					ps[i].Node = p.Spec.NodeName
				}
			}
			t.problems[k] = ps
			found = append(found, ps...)
		}
	}
	r := Result{}
	if t.synced {
		r = t.flush()
	}
	r.Problems = found
	return r
}

// Synced says that every object of the initial list has been applied, and returns what they add up to.
func (t *Translator) Synced() Result {
	t.synced = true
	return t.flush()
}

// Problems are all that stand, ordered by object.
func (t *Translator) Problems() []Problem {
	var out []Problem
	for _, k := range slices.SortedFunc(maps.Keys(t.problems), func(a, b Key) int { return cmp.Compare(a.String(), b.String()) }) {
		out = append(out, t.problems[k]...)
	}
	return out
}

func validName(k Key, o runtime.Object) (errs, partial field.ErrorList) {
	meta := field.NewPath("metadata")
	if k.Name == "" {
		errs = append(errs, field.Required(meta.Child("name"), ""))
	}
	switch o.(type) {
	case *corev1.Namespace, *corev1.Node, *networkingv1.ServiceCIDR, *v1alpha1.MeshConfig:
	default:
		if k.Namespace == "" {
			errs = append(errs, field.Required(meta.Child("namespace"), ""))
		}
	}
	return errs, nil
}

func (t *Translator) put(k Key, o runtime.Object) (errs, partial field.ErrorList) {
	switch o := o.(type) {
	case *corev1.Namespace:
		return t.putNamespace(k, o)
	case *corev1.Node:
		return t.putNode(k, o)
	case *networkingv1.ServiceCIDR:
		return t.putServiceCIDR(k, o)
	case *corev1.Pod:
		return t.putPod(k, o)
	case *corev1.Service:
		return t.putService(k, o)
	case *discoveryv1.EndpointSlice:
		return t.putSlice(k, o)
	case *v1alpha1.MeshConfig:
		return t.putMeshConfig(k, o)
	case *istiosecurity.PeerAuthentication:
		return t.putPeerAuth(k, o)
	case *istiosecurity.AuthorizationPolicy:
		return t.putAuthz(k, o)
	}
	return nil, nil // ServiceAccount: read so that a wrong one is told; nothing depends on it yet
}

func (t *Translator) remove(k Key) {
	switch k.Kind {
	case "Namespace":
		t.deleteNamespace(k)
	case "Node":
		t.deleteNode(k)
	case "ServiceCIDR":
		t.deleteServiceCIDR(k)
	case "Pod":
		t.deletePod(k)
	case "Service":
		t.deleteService(k)
	case "EndpointSlice":
		t.deleteSlice(k)
	case "MeshConfig":
		t.deleteMeshConfig(k)
	case "PeerAuthentication":
		t.deletePeerAuth(k)
	case "AuthorizationPolicy":
		t.deleteAuthz(k)
	}
}

func (t *Translator) touchNamespace(ns string) { t.dirtyPods.addAll(t.podsByNamespace[ns]) }

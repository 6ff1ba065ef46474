// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	securityv1beta1 "istio.io/api/security/v1beta1"
	typev1beta1 "istio.io/api/type/v1beta1"
	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/warren-mesh/warren/mesh"
)

var modes = []securityv1beta1.PeerAuthentication_MutualTLS_Mode{unset, disable, permissive, strict}

// random makes objects of a small world, so that names and addresses collide often.
type random struct{ *rand.Rand }

func (r random) one(xs ...string) string { return xs[r.IntN(len(xs))] }

func (r random) meta(names ...string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: r.one("shop", "other"), Name: r.one(names...), Labels: map[string]string{}, Annotations: map[string]string{}}
	if r.IntN(2) == 0 {
		m.Labels["app"] = r.one("a", "b")
	}
	if r.IntN(4) == 0 {
		m.Labels[KeyMesh] = r.one("enabled", "disabled")
	}
	return m
}

func (r random) ip() string { return r.one("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4") }

func (r random) object() runtime.Object {
	switch r.IntN(10) {
	case 0:
		m := r.meta("-")
		m.Name, m.Namespace = m.Namespace, ""
		return &corev1.Namespace{ObjectMeta: m}
	case 1, 2, 3:
		m := r.meta("p1", "p2", "p3")
		m.UID = types.UID(m.Namespace + m.Name + r.one("x", "y"))
		p := &corev1.Pod{ObjectMeta: m, Spec: corev1.PodSpec{NodeName: r.one("a", "b"), HostNetwork: r.IntN(6) == 0},
			Status: corev1.PodStatus{Phase: corev1.PodPhase(r.one("Running", "Running", "Pending", "Succeeded")), PodIP: r.ip()}}
		if r.IntN(2) == 0 {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		if word := r.one("", "", CapturedTrue, "NoNetns", NotEnrolled); word != "" && !p.Spec.HostNetwork {
			p.Annotations[KeyCaptured] = word
		}
		return p
	case 4:
		return &corev1.Service{ObjectMeta: r.meta("web", "db"), Spec: corev1.ServiceSpec{ClusterIP: r.one("10.96.0.1", "10.96.0.2", "None"),
			Type: corev1.ServiceType(r.one("ClusterIP", "ClusterIP", "ExternalName")), Ports: []corev1.ServicePort{{Name: r.one("a", "b"), Port: 80}}}}
	case 5, 6:
		m := r.meta("s1", "s2", "s3")
		m.Labels[discoveryv1.LabelServiceName] = r.one("web", "db")
		s := &discoveryv1.EndpointSlice{ObjectMeta: m, AddressType: discoveryv1.AddressTypeIPv4,
			Ports: []discoveryv1.EndpointPort{{Name: ptr(r.one("a", "b")), Port: ptr(int32(8080 + r.IntN(2)))}}}
		for range r.IntN(3) {
			e := discoveryv1.Endpoint{Addresses: []string{r.ip()}, Conditions: discoveryv1.EndpointConditions{Ready: ptr(r.IntN(3) > 0)}}
			if r.IntN(2) == 0 {
				e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Name: r.one("p1", "p2", "p3")}
			}
			s.Endpoints = append(s.Endpoints, e)
		}
		return s
	case 7, 8:
		m := r.meta("x", "y")
		m.Namespace = r.one("shop", "other", mesh.DefaultRootNamespace)
		o := &istiosecurity.AuthorizationPolicy{ObjectMeta: m}
		o.Spec.Action = securityv1beta1.AuthorizationPolicy_Action(r.IntN(3))
		if r.IntN(3) > 0 {
			o.Spec.Selector = &typev1beta1.WorkloadSelector{MatchLabels: map[string]string{"app": r.one("a", "b")}}
		}
		for range r.IntN(3) {
			o.Spec.Rules = append(o.Spec.Rules, &securityv1beta1.Rule{To: []*securityv1beta1.Rule_To{{Operation: &securityv1beta1.Operation{Ports: []string{r.one("80", "81")}}}}})
		}
		return o
	default:
		if r.IntN(2) == 0 {
			pa := peerAuthentication(r.one("shop", "other"), r.one("x", "y"), modes[r.IntN(len(modes))], r.IntN(3))
			pa.Spec.Selector = &typev1beta1.WorkloadSelector{MatchLabels: map[string]string{"app": r.one("a", "b")}}
			pa.Spec.PortLevelMtls = map[uint32]*securityv1beta1.PeerAuthentication_MutualTLS{80: {Mode: modes[r.IntN(len(modes))]}}
			return pa
		}
		return peerAuthentication(r.one("shop", "other", mesh.DefaultRootNamespace), r.one("x", "y"), modes[r.IntN(len(modes))], r.IntN(3))
	}
}

// What a translator told step by step is what a new one tells of the objects that remain: nothing is
// forgotten, nothing stays behind.
func TestStepByStepIsAllAtOnce(t *testing.T) {
	for seed := range uint64(150) {
		r := random{rand.New(rand.NewPCG(seed, 2))}
		cfg := Config{Node: "a", Now: func() time.Time { return time.Time{} }}
		tr, store, local := NewTranslator(cfg), mesh.NewStore(), map[string]LocalPod{}
		take := func(res Result) {
			store.Apply(res.Changes...)
			for _, uid := range res.RemovedPods {
				delete(local, uid)
			}
			for _, p := range res.LocalPods {
				local[p.UID] = p
			}
		}
		take(tr.Synced())
		seen := outsideSeen{}
		live := map[Key]runtime.Object{}
		for range 60 {
			o := r.object()
			k, err := KeyOf(o)
			if err != nil {
				t.Fatal(err)
			}
			ev := Event{Object: o, Deleted: r.IntN(4) == 0}
			res := tr.Apply([]Event{ev})
			take(res)
			if err := seen.look(store.Snapshot()); err != nil {
				t.Fatalf("seed %d: after %s: %v", seed, k, err)
			}
			switch {
			case ev.Deleted:
				delete(live, k)
			case len(res.Problems) == 0:
				live[k] = o
			default:
				t.Fatalf("seed %d: %v", seed, res.Problems)
			}
		}
		fresh := NewTranslator(cfg)
		for _, o := range live {
			fresh.Apply([]Event{{Object: o}})
		}
		all := fresh.Synced()
		if err := (outsideSeen{}).look(mesh.NewSnapshot().With(all.Changes...)); err != nil {
			t.Fatalf("seed %d: at the start: %v", seed, err)
		}
		want := picture(mesh.NewSnapshot().With(all.Changes...))
		if got := picture(store.Snapshot()); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d:\n got %v\nwant %v", seed, got, want)
		}
		for _, p := range all.LocalPods {
			q := local[p.UID]
			q.Running = p.Running // history differs
			if !reflect.DeepEqual(p, q) {
				t.Errorf("seed %d: local pod: got %+v, want %+v", seed, q, p)
			}
		}
		if len(local) != len(all.LocalPods) {
			t.Errorf("seed %d: got %d local pods, want %d", seed, len(local), len(all.LocalPods))
		}
	}
}

// outsideSeen are the pods that were to be seen Ready outside the mesh, and not captured since: with their uids, by
// workload. Only these may be reached in plaintext although they are enrolled.
type outsideSeen map[string]string

// look compares a snapshot with what was seen before it, and takes note of it.
func (seen outsideSeen) look(s *mesh.Snapshot) (err error) {
	for uid := range seen {
		if s.Workload(uid) == nil {
			delete(seen, uid)
		}
	}
	s.Workloads(func(w *mesh.Workload) bool {
		if seen[w.UID] != w.PodUID {
			delete(seen, w.UID)
		}
		switch _, outside := seen[w.UID]; {
		case w.PodUID == "":
		case w.Capture == mesh.ReadyBeforeEnrolled && !outside, w.Capture == mesh.Pending && w.CaptureReason == "" && outside:
			err = fmt.Errorf("%s is %v, and was seen Ready outside and not captured since: %v", w.UID, w.Capture, outside)
		case w.Capture == mesh.Captured:
			delete(seen, w.UID)
		case w.Capture == mesh.Outside && w.Ready:
			seen[w.UID] = w.PodUID
		}
		return err == nil
	})
	return err
}

// picture is what a snapshot says, without what depends on the order of things seen; see outsideSeen.
func picture(s *mesh.Snapshot) map[string]any {
	out := map[string]any{"config": *s.Config()}
	s.Workloads(func(w *mesh.Workload) bool {
		c := *w
		if c.Capture == mesh.ReadyBeforeEnrolled {
			c.Capture = mesh.Pending
		}
		c.CapturedRunning = false
		out["workload "+c.UID] = c
		return true
	})
	s.Services(func(v *mesh.Service) bool {
		var eps []string
		for _, w := range s.Endpoints(v.NamespacedName()) {
			eps = append(eps, w.UID)
		}
		out["service "+v.NamespacedName().String()] = *v
		out["endpoints "+v.NamespacedName().String()] = len(eps)
		return true
	})
	s.Policies(func(p *mesh.Policy) bool { out["policy "+p.Name.String()] = *p; return true })
	for i := range 5 {
		a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		out[fmt.Sprint("address ", a)] = s.WorkloadByAddr(a) != nil
	}
	return out
}

// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/randfill"
)

// filled returns an object with something in every field, at random but for what decides whether it is read.
func filled(f *randfill.Filler, r *rand.Rand, o runtime.Object) runtime.Object {
	f.Fill(o)
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	flags := func(m map[string]string) map[string]string {
		if m == nil {
			m = map[string]string{}
		}
		for _, k := range []string{KeyMesh, KeyDataplaneMode, KeyCaptured, KeyExcept, keySidecarStatus} {
			switch r.IntN(4) {
			case 0:
				m[k] = pick("enabled", "ambient", "true")
			case 1:
				m[k] = pick("disabled", "none", "10.0.0.0/8", "{}")
			}
		}
		return m
	}
	switch o := o.(type) {
	case *corev1.Namespace:
		o.Name, o.Labels, o.Annotations = "ns", flags(o.Labels), flags(o.Annotations)
	case *corev1.Node:
		o.Name, o.Spec.PodCIDR, o.Spec.PodCIDRs = "n", "10.0.0.0/24", []string{"10.0.0.0/24", "fd00::/64"}
		o.Labels = map[string]string{corev1.LabelTopologyRegion: "r", corev1.LabelTopologyZone: "z", "x": "y"}
	case *networkingv1.ServiceCIDR:
		o.Name, o.Spec.CIDRs = "c", []string{"10.2.0.0/16"}
	case *corev1.Service:
		o.Name, o.Namespace, o.Spec.ClusterIP, o.Spec.ClusterIPs = "svc", "ns", "10.2.0.1", []string{"10.2.0.1", "fd02::1"}
		o.Spec.Type = corev1.ServiceType(pick("", "ClusterIP", "NodePort", "LoadBalancer", "ExternalName"))
		local := corev1.ServiceInternalTrafficPolicy(pick("", "Cluster", "Local"))
		o.Spec.InternalTrafficPolicy, o.Spec.SessionAffinity = &local, corev1.ServiceAffinity(pick("", "None", "ClientIP"))
		for i := range o.Spec.Ports {
			o.Spec.Ports[i].Port, o.Spec.Ports[i].Protocol = r.Int32N(65535)+1, corev1.Protocol(pick("", "TCP", "UDP"))
			o.Spec.Ports[i].TargetPort.IntVal = r.Int32N(65535)
		}
	case *corev1.Pod:
		o.Name, o.Namespace, o.UID, o.Spec.NodeName = "p", "ns", "uid", pick("n", "other")
		o.Status.PodIP, o.Status.PodIPs = "10.0.0.2", []corev1.PodIP{{IP: "10.0.0.2"}, {IP: "fd00::2"}}
		o.Status.Phase = corev1.PodPhase(pick("", "Pending", "Running", "Succeeded"))
		o.Labels, o.Annotations = flags(o.Labels), flags(o.Annotations)
		if o.DeletionTimestamp = nil; r.IntN(2) == 0 {
			o.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
		}
		o.Status.Conditions = append(o.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionStatus(pick("True", "False"))})
	case *discoveryv1.EndpointSlice:
		o.Name, o.Namespace, o.AddressType = "s", "ns", discoveryv1.AddressTypeIPv4
		o.Labels = map[string]string{discoveryv1.LabelServiceName: "svc", "x": "y"}
		for i := range o.Ports {
			port := r.Int32N(65535) + 1
			o.Ports[i].Port = &port
		}
		for i := range o.Endpoints {
			o.Endpoints[i].Addresses = []string{pick("10.0.0.2", "192.0.2.1")}
			if ref := o.Endpoints[i].TargetRef; ref != nil {
				ref.Kind, ref.Namespace, ref.Name, ref.UID = pick("Pod", "Other"), pick("", "ns"), pick("p", "q"), types.UID(pick("uid", "former"))
			}
		}
	}
	return o
}

// What the Translator makes of trimmed objects is what it makes of whole ones.
func TestTrimKeepsWhatIsRead(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	f := randfill.NewWithSeed(1).NilChance(0.2).NumElements(1, 3).MaxDepth(12)
	bigger := 0
	for range 300 {
		var whole, trimmed []Event
		for _, o := range []runtime.Object{&corev1.Namespace{}, &corev1.Node{}, &networkingv1.ServiceCIDR{}, &corev1.Service{}, &corev1.Pod{}, &discoveryv1.EndpointSlice{}} {
			o = filled(f, r, o)
			small := Trim(o)
			if !reflect.DeepEqual(Trim(small), small) {
				t.Fatalf("trimmed twice is not trimmed once: %T", o)
			}
			if reflect.DeepEqual(o, small) {
				bigger++
			}
			whole, trimmed = append(whole, Event{Object: o}), append(trimmed, Event{Object: small})
		}
		result := func(evs []Event) (Result, []Problem) {
			tr := NewTranslator(Config{Node: "n", Now: func() time.Time { return time.Unix(1, 0) }})
			tr.Apply(evs)
			return tr.Synced(), tr.Problems()
		}
		want, wantProblems := result(whole)
		got, gotProblems := result(trimmed)
		if !reflect.DeepEqual(got.LocalPods, want.LocalPods) || !reflect.DeepEqual(got.Changes, want.Changes) {
			t.Fatalf("trimmed:\n%+v\nwhole:\n%+v", got, want)
		}
		if len(gotProblems) != len(wantProblems) {
			t.Fatalf("problems of trimmed %v, of whole %v", gotProblems, wantProblems)
		}
	}
	if bigger > 0 {
		t.Errorf("%d objects lost nothing", bigger)
	}
}

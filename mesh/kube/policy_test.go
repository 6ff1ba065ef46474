// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	securityv1beta1 "istio.io/api/security/v1beta1"
	typev1beta1 "istio.io/api/type/v1beta1"
	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/warren-mesh/warren/mesh"
)

const (
	unset      = securityv1beta1.PeerAuthentication_MutualTLS_UNSET
	disable    = securityv1beta1.PeerAuthentication_MutualTLS_DISABLE
	permissive = securityv1beta1.PeerAuthentication_MutualTLS_PERMISSIVE
	strict     = securityv1beta1.PeerAuthentication_MutualTLS_STRICT
)

// peerAuthentication is one with an age in hours.
func peerAuthentication(ns, name string, mode securityv1beta1.PeerAuthentication_MutualTLS_Mode, age int) *istiosecurity.PeerAuthentication {
	return &istiosecurity.PeerAuthentication{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-time.Duration(age) * time.Hour))},
		Spec:       securityv1beta1.PeerAuthentication{Mtls: &securityv1beta1.PeerAuthentication_MutualTLS{Mode: mode}},
	}
}

func TestStrict(t *testing.T) {
	root := mesh.DefaultRootNamespace
	type list = []runtime.Object
	tests := []struct {
		name string
		list list
		want bool
	}{
		{"nothing", nil, false},
		{"mesh", list{peerAuthentication(root, "x", strict, 1)}, true},
		{"namespace", list{peerAuthentication("shop", "x", strict, 1)}, true},
		{"another namespace", list{peerAuthentication("other", "x", strict, 1)}, false},
		{"namespace over mesh", list{peerAuthentication(root, "x", strict, 1), peerAuthentication("shop", "x", permissive, 1)}, false},
		{"disable is permissive", list{peerAuthentication(root, "x", strict, 1), peerAuthentication("shop", "x", disable, 1)}, false},
		{"unset inherits", list{peerAuthentication(root, "x", strict, 1), peerAuthentication("shop", "x", unset, 1)}, true},
		{"unset of the mesh", list{peerAuthentication(root, "x", unset, 1)}, false},
		{"no mtls at all", list{&istiosecurity.PeerAuthentication{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "x"}}}, false},
		{"oldest wins", list{peerAuthentication("shop", "a", permissive, 1), peerAuthentication("shop", "b", strict, 2)}, true},
		{"ties by name", list{peerAuthentication("shop", "b", strict, 1), peerAuthentication("shop", "a", permissive, 1)}, false},
	}
	name := mesh.Name{Namespace: root, Name: StrictPolicy}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, enrolledShop, webPod())
			w.put(tt.list...)
			check := func(want bool) {
				t.Helper()
				refs := slices.Contains(w.web().Policies, name)
				p := w.store.Snapshot().Policy(name)
				if refs != want || refs && p == nil {
					t.Errorf("referenced %v, policy %+v; want %v", refs, p, want)
				}
			}
			check(tt.want)
			for _, o := range tt.list {
				w.delete(o)
			}
			check(false)
			if w.store.Snapshot().Policy(name) != nil {
				t.Error("the policy outlives what it was made of")
			}
		})
	}
}

func TestStrictPolicy(t *testing.T) {
	w := newWorld(t, enrolledShop, webPod(), peerAuthentication("shop", "x", strict, 1))
	p := w.store.Snapshot().Policy(mesh.Name{Namespace: "warren-system", Name: "istio_converted_static_strict"})
	if p == nil || p.Action != mesh.Deny || p.Scope != mesh.ScopeWorkload || !p.Strict || p.DryRun || len(p.Rules) != 1 {
		t.Fatalf("got %+v", p)
	}
	m := p.Rules[0].Clauses[0].Matches[0]
	if len(m.NotPrincipals) != 1 || m.NotPrincipals[0].Matches("") || !m.NotPrincipals[0].Matches("td/ns/a/sa/b") {
		t.Errorf("match: got %+v", m)
	}
	// Policy before the workload that references it, and gone after it.
	r := w.put(peerAuthentication("shop", "x", permissive, 1))
	if _, last := r.Changes[len(r.Changes)-1].(mesh.DeletePolicy); !last || len(r.Changes) != 2 {
		t.Errorf("order of going: %T", r.Changes)
	}
	r = w.put(peerAuthentication("shop", "x", strict, 1))
	if _, first := r.Changes[0].(mesh.PutPolicy); !first || len(r.Changes) != 2 {
		t.Errorf("order of coming: %T", r.Changes)
	}
}

func selecting(pa *istiosecurity.PeerAuthentication, ports map[uint32]securityv1beta1.PeerAuthentication_MutualTLS_Mode) *istiosecurity.PeerAuthentication {
	pa.Spec.Selector = &typev1beta1.WorkloadSelector{MatchLabels: map[string]string{"app": "web"}}
	for p, m := range ports {
		if pa.Spec.PortLevelMtls == nil {
			pa.Spec.PortLevelMtls = map[uint32]*securityv1beta1.PeerAuthentication_MutualTLS{}
		}
		pa.Spec.PortLevelMtls[p] = &securityv1beta1.PeerAuthentication_MutualTLS{Mode: m}
	}
	return pa
}

func TestPeerAuthenticationBySelector(t *testing.T) {
	type list = []runtime.Object
	type byPort = map[uint32]securityv1beta1.PeerAuthentication_MutualTLS_Mode
	root := mesh.DefaultRootNamespace
	pa := peerAuthentication
	static := "warren-system/istio_converted_static_strict"
	tests := []struct {
		name   string
		list   list
		policy string // "" for none
		not    []uint16
		only   []uint16
	}{
		{"strict", list{selecting(pa("shop", "x", strict, 1), nil)}, static, nil, nil},
		{"over its namespace", list{pa("shop", "n", strict, 9), selecting(pa("shop", "x", permissive, 1), nil)}, "", nil, nil},
		{"disable over its namespace", list{pa("shop", "n", strict, 9), selecting(pa("shop", "x", disable, 1), nil)}, "", nil, nil},
		{"unset takes its namespace's", list{pa("shop", "n", strict, 1), selecting(pa("shop", "x", unset, 1), nil)}, static, nil, nil},
		{"unset takes the mesh's", list{pa(root, "n", strict, 1), pa("shop", "n", unset, 1), selecting(pa("shop", "x", unset, 1), nil)}, static, nil, nil},
		{"the oldest", list{selecting(pa("shop", "x", permissive, 1), nil), selecting(pa("shop", "y", strict, 2), nil)}, static, nil, nil},
		{"ties by name", list{selecting(pa("shop", "y", strict, 1), nil), selecting(pa("shop", "x", permissive, 1), nil)}, "", nil, nil},
		{"another namespace's", list{selecting(pa("other", "x", strict, 1), nil)}, "", nil, nil},
		{"strict but for ports", list{selecting(pa("shop", "x", strict, 1), byPort{80: disable, 81: permissive, 82: strict, 83: unset})},
			"shop/converted_peer_authentication_x", []uint16{80, 81}, nil},
		{"strict on ports only", list{selecting(pa("shop", "x", permissive, 1), byPort{80: strict, 81: strict, 82: permissive})},
			"shop/converted_peer_authentication_x", nil, []uint16{80, 81}},
		{"inherited strict but for a port", list{pa(root, "n", strict, 1), selecting(pa("shop", "x", unset, 1), byPort{80: permissive})},
			"shop/converted_peer_authentication_x", []uint16{80}, nil},
		{"ports that say the same", list{selecting(pa("shop", "x", strict, 1), byPort{80: strict})}, static, nil, nil},
		{"ports that say nothing", list{selecting(pa("shop", "x", permissive, 1), byPort{80: unset, 81: disable})}, "", nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, enrolledShop, webPod())
			w.put(tt.list...)
			if tt.policy == "" {
				if got := w.web().Policies; len(got) > 0 {
					t.Errorf("got %v, want none", got)
				}
			} else if refs := w.web().Policies; len(refs) != 1 || refs[0].String() != tt.policy {
				t.Fatalf("got %v, want %s", refs, tt.policy)
			} else if p := w.store.Snapshot().Policy(refs[0]); p == nil || p.Action != mesh.Deny || p.Scope != mesh.ScopeWorkload || !p.Strict {
				t.Errorf("policy: got %+v", p)
			} else if m := p.Rules[0].Clauses[0].Matches[0]; !slices.Equal(m.NotDestinationPorts, tt.not) || !slices.Equal(m.DestinationPorts, tt.only) || len(m.NotPrincipals) != 1 {
				t.Errorf("match: got %+v", m)
			}
			// A pod that is not selected goes by its namespace.
			w.put(webPod(func(p *corev1.Pod) { p.Labels = nil }))
			if want, _ := w.tr.strict("shop"); (len(w.web().Policies) == 1) != want {
				t.Errorf("not selected, yet %v", w.web().Policies)
			}
			for _, o := range tt.list {
				w.delete(o)
			}
			left := 0
			w.store.Snapshot().Policies(func(*mesh.Policy) bool { left++; return true })
			if left+len(w.web().Policies) != 0 {
				t.Errorf("%d policies stay, references %v", left, w.web().Policies)
			}
		})
	}
}

func TestPeerAuthenticationNotApplied(t *testing.T) {
	w := newWorld(t, enrolledShop, webPod())
	inRoot := selecting(peerAuthentication(mesh.DefaultRootNamespace, "x", strict, 1), nil)
	byPort := peerAuthentication("shop", "y", strict, 1)
	byPort.Spec.PortLevelMtls = map[uint32]*securityv1beta1.PeerAuthentication_MutualTLS{80: {Mode: disable}}
	for o, field := range map[*istiosecurity.PeerAuthentication]string{inRoot: "spec.selector", byPort: "spec.portLevelMtls"} {
		r := w.tr.Apply([]Event{{Object: o}})
		if len(r.Problems) != 1 || r.Problems[0].Field != field || !r.Problems[0].Partial {
			t.Errorf("%s: got %+v", field, r.Problems)
		}
		w.store.Apply(r.Changes...)
	}
	if len(w.web().Policies) != 1 {
		t.Error("the rest of the object by port is not applied")
	}
	if len(w.tr.Problems()) != 2 {
		t.Errorf("problems: %v", w.tr.Problems())
	}
	w.delete(byPort)
	if len(w.web().Policies) != 0 || len(w.tr.Problems()) != 1 {
		t.Errorf("policies %v, problems %v", w.web().Policies, w.tr.Problems())
	}
	w.put(peerAuthentication("shop", "z", permissive, 1))
	w.refuse(peerAuthentication("shop", "z", 17, 1), "spec.mtls.mode")
	w.refuse(selecting(peerAuthentication("shop", "z", strict, 1), map[uint32]securityv1beta1.PeerAuthentication_MutualTLS_Mode{70000: strict}), "spec.portLevelMtls[70000]")
	w.refuse(selecting(peerAuthentication("shop", "z", strict, 1), map[uint32]securityv1beta1.PeerAuthentication_MutualTLS_Mode{80: 17}), "spec.portLevelMtls[80].mode")
}

func TestConfig(t *testing.T) {
	node := func(cidrs ...string) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{corev1.LabelTopologyRegion: "r", corev1.LabelTopologyZone: "z"}},
			Spec:       corev1.NodeSpec{PodCIDRs: cidrs},
		}
	}
	services := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "k"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/12", "fd96::/112"}}}
	w := newWorld(t, node("10.0.1.7/24", "fd00::/64"), services, webPod())
	in := func(a string) bool { return w.store.Snapshot().Config().InCluster(netip.MustParseAddr(a)) }
	for a, want := range map[string]bool{"10.0.1.200": true, "::ffff:10.0.1.200": true, "fd00::77": true, "10.100.0.1": true, "fd96::1": true, "10.0.2.1": false, "192.0.2.1": false} {
		if in(a) != want {
			t.Errorf("%s in cluster: got %v", a, !want)
		}
	}
	if got := w.web(); got.Region != "r" || got.Zone != "z" {
		t.Errorf("locality: got %q %q", got.Region, got.Zone)
	}
	if r := w.put(node("10.0.1.0/24", "fd00::/64")); len(r.Changes) != 0 {
		t.Errorf("the same ranges, yet told %v", r.Changes)
	}
	w.refuse(node("10.0.0.0/40"), "spec.podCIDRs[0]")
	w.refuse(&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "k"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"x"}}}, "spec.cidrs[0]")
	w.delete(node())
	w.delete(services)
	if in("10.0.1.200") || in("10.100.0.1") || w.web().Zone != "" {
		t.Error("ranges of what is gone stay")
	}
	if c := NewTranslator(Config{ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}).meshConfig(); !c.InCluster(netip.MustParseAddr("10.9.9.9")) || c.TrustDomain != "cluster.local" {
		t.Errorf("got %+v", c)
	}
}

func TestNames(t *testing.T) {
	owner := func(kind, name string) []metav1.OwnerReference {
		return []metav1.OwnerReference{{Kind: kind, Name: name, Controller: ptr(true)}}
	}
	tests := []struct {
		name   string
		labels []string
		owners []metav1.OwnerReference
		want   names
	}{
		{"bare pod", nil, nil, names{"p", "pod", "p", "latest"}},
		{"deployment", []string{"pod-template-hash", "5d8f"}, owner("ReplicaSet", "web-app-5d8f"), names{"web-app", "deployment", "web-app", "latest"}},
		{"replica set without hash label", nil, owner("ReplicaSet", "web-app-5d8f"), names{"web-app", "deployment", "web-app", "latest"}},
		{"stateful set", []string{"app", "db", "version", "v2"}, owner("StatefulSet", "pg"), names{"pg", "statefulset", "db", "v2"}},
		{"cron job", nil, owner("Job", "nightly-28591234"), names{"nightly", "cronjob", "nightly", "latest"}},
		{"job", nil, owner("Job", "load-2"), names{"load-2", "job", "load-2", "latest"}},
		{"owner that is no controller", nil, []metav1.OwnerReference{{Kind: "Job", Name: "j"}}, names{"p", "pod", "p", "latest"}},
		{"most particular label", []string{"app", "a", "app.kubernetes.io/name", "b", "service.istio.io/canonical-name", "c",
			"version", "1", "app.kubernetes.io/version", "2", "service.istio.io/canonical-revision", "3"}, nil, names{"p", "pod", "c", "3"}},
	}
	for _, tt := range tests {
		if got := namesOf(&metav1.ObjectMeta{Name: "p", Labels: pairs(tt.labels), OwnerReferences: tt.owners}); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	security "istio.io/api/security/v1beta1"
	typev1beta1 "istio.io/api/type/v1beta1"
	istio "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/mesh/wds"
	"github.com/warren-mesh/warren/ztunnel/authz"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// dice make objects and connections of a world so small that they often meet.
type dice struct{ *rand.Rand }

func of[T any](d dice, vs ...T) T { return vs[d.IntN(len(vs))] }

// some values, mostly none.
func some(d dice, f func() string) (out []string) {
	for d.IntN(4) == 0 {
		out = append(out, f())
	}
	return out
}

// atLeast makes the list that is one value long when it would be empty.
func (d dice) pair(f func() string) (is, not []string) {
	if is, not = some(d, f), some(d, f); len(is)+len(not) == 0 {
		is = []string{f()}
	}
	return is, not
}

func (d dice) domain() string    { return of(d, "cluster.local", "cluster.local", "other.example") }
func (d dice) namespace() string { return of(d, "a", "ab", root) }
func (d dice) account() string   { return of(d, "x", "sa", "ns", "x.y", "X_é") }

func (d dice) whole() string {
	return d.domain() + "/ns/" + d.namespace() + "/sa/" + d.account()
}

func (d dice) pattern(s string) string {
	n := d.IntN(len(s) + 1)
	switch d.IntN(6) {
	case 0:
		return "*"
	case 1:
		return s[:n] + "*"
	case 2:
		return "*" + s[n:]
	}
	return s
}

func (d dice) principal() string {
	return of(d, "", "", "spiffe://") + of(d, d.pattern(d.whole()), "cluster.local/*", "*/sa/x", "cluster.local/ns/a/sa/x")
}

func (d dice) ip() string {
	return of(d, "10.0.0.1", "10.0.0.2", "10.0.1.1", "::ffff:10.0.0.1", "fd00::1", "fd00::2", "fd00:1::1")
}

func (d dice) block() string {
	a := d.ip()
	if d.IntN(2) == 0 {
		return a
	}
	switch p := netip.MustParseAddr(a); {
	case p.Is4In6():
		return fmt.Sprint(a, "/", 96+of(d, 0, 8, 24, 31, 32))
	case p.Is4():
		return fmt.Sprint(a, "/", of(d, 0, 8, 24, 31, 32))
	}
	return fmt.Sprint(a, "/", of(d, 0, 7, 16, 64, 127, 128))
}

func (d dice) port() string { return of(d, "80", "81", "8080") }
func (d dice) sa() string   { return of(d, "", "a/", "ab/") + of(d, "x", "sa", "x.y") }
func (d dice) http() string { return of(d, "GET", "/x") }

func (d dice) source() *security.Rule_From {
	for {
		s := &security.Source{}
		if s.IpBlocks, s.NotIpBlocks = some(d, d.block), some(d, d.block); d.IntN(3) == 0 {
			s.ServiceAccounts, s.NotServiceAccounts = some(d, d.sa), some(d, d.sa)
		} else {
			s.Principals, s.NotPrincipals = some(d, d.principal), some(d, d.principal)
			s.Namespaces, s.NotNamespaces = some(d, func() string { return d.pattern(d.namespace()) }), some(d, func() string { return d.pattern(d.namespace()) })
		}
		if d.IntN(8) == 0 {
			s.RequestPrincipals, s.NotRemoteIpBlocks = some(d, d.http), some(d, d.block)
		}
		if len(s.IpBlocks)+len(s.NotIpBlocks)+len(s.ServiceAccounts)+len(s.NotServiceAccounts)+len(s.Principals)+len(s.NotPrincipals)+
			len(s.Namespaces)+len(s.NotNamespaces)+len(s.RequestPrincipals)+len(s.NotRemoteIpBlocks) > 0 {
			return &security.Rule_From{Source: s}
		}
	}
}

func (d dice) operation() *security.Rule_To {
	o := &security.Operation{}
	if o.Ports, o.NotPorts = d.pair(d.port); d.IntN(8) == 0 {
		o.Methods, o.NotPaths = some(d, d.http), some(d, d.http)
		if d.IntN(2) == 0 && len(o.Methods)+len(o.NotPaths) > 0 {
			o.Ports, o.NotPorts = nil, nil
		}
	}
	return &security.Rule_To{Operation: o}
}

func (d dice) condition() *security.Condition {
	c := &security.Condition{Key: of(d, "source.principal", "source.namespace", "source.serviceAccount", "source.ip", "destination.ip", "destination.port",
		"destination.port", "request.headers[x]")}
	c.Values, c.NotValues = d.pair(map[string]func() string{
		"source.principal": d.principal, "source.namespace": func() string { return d.pattern(d.namespace()) }, "source.serviceAccount": d.sa,
		"source.ip": d.block, "destination.ip": d.block, "destination.port": d.port, "request.headers[x]": d.http,
	}[c.Key])
	return c
}

func (d dice) rule() *security.Rule {
	r := &security.Rule{}
	for d.IntN(5) > 2 {
		r.From = append(r.From, d.source())
	}
	for d.IntN(5) > 2 {
		r.To = append(r.To, d.operation())
	}
	for d.IntN(4) == 0 {
		r.When = append(r.When, d.condition())
	}
	return r
}

func (d dice) meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: d.namespace(), Name: of(d, "p", "q", "r"), CreationTimestamp: metav1.Unix(int64(d.IntN(3)), 0)}
}

func (d dice) selector() *typev1beta1.WorkloadSelector {
	switch d.IntN(4) {
	case 0:
		return &typev1beta1.WorkloadSelector{}
	case 1, 2:
		return &typev1beta1.WorkloadSelector{MatchLabels: d.labels()}
	}
	return nil
}

func (d dice) labels() map[string]string {
	out := map[string]string{"app": of(d, "web", "db")}
	if d.IntN(3) == 0 {
		out["tier"] = of(d, "", "one")
	}
	return out
}

func (d dice) authorization() *istio.AuthorizationPolicy {
	p := &istio.AuthorizationPolicy{ObjectMeta: d.meta()}
	p.Spec.Action = of(d, security.AuthorizationPolicy_ALLOW, security.AuthorizationPolicy_ALLOW, security.AuthorizationPolicy_DENY,
		security.AuthorizationPolicy_DENY, security.AuthorizationPolicy_AUDIT, security.AuthorizationPolicy_CUSTOM)
	if p.Spec.Selector = d.selector(); d.IntN(12) == 0 {
		p.Spec.Selector, p.Spec.TargetRefs = nil, []*typev1beta1.PolicyTargetReference{{Kind: "Service", Name: "web"}}
	}
	if d.IntN(6) == 0 {
		p.Annotations = map[string]string{"istio.io/dry-run": of(d, "true", "true", "false")}
	}
	for d.IntN(3) > 0 {
		p.Spec.Rules = append(p.Spec.Rules, d.rule())
	}
	return p
}

func (d dice) peer() *istio.PeerAuthentication {
	p := &istio.PeerAuthentication{ObjectMeta: d.meta()}
	mode := func() *security.PeerAuthentication_MutualTLS {
		return &security.PeerAuthentication_MutualTLS{Mode: security.PeerAuthentication_MutualTLS_Mode(d.IntN(4))}
	}
	if p.Spec.Selector = d.selector(); d.IntN(3) > 0 {
		p.Spec.Mtls = mode()
	}
	for d.IntN(2) == 0 {
		if p.Spec.PortLevelMtls == nil {
			p.Spec.PortLevelMtls = map[uint32]*security.PeerAuthentication_MutualTLS{}
		}
		p.Spec.PortLevelMtls[of(d, uint32(80), 81)] = mode()
	}
	return p
}

func (d dice) caller() caller {
	c := caller{from: net.ParseIP(d.ip()), to: net.ParseIP(d.ip()), port: of(d, 80, 81, 8080)}
	if d.IntN(4) > 0 {
		c.domain, c.namespace, c.account = d.domain(), d.namespace(), d.account()
	}
	return c
}

func address(d dice, ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To16())
	if d.IntN(3) > 0 { // a dual-stack socket says ::ffff:10.0.0.1
		a = a.Unmap()
	}
	return a
}

// system is what Warren makes of the same objects.
type system struct {
	translator *kube.Translator
	here       *mesh.Snapshot // on the agent
	there      *mesh.Snapshot // at the other end of workload discovery
	evaluator  authz.Evaluator
}

func (s *system) apply(t *testing.T, events ...kube.Event) {
	t.Helper()
	r := s.translator.Apply(events)
	for _, p := range r.Problems {
		if !p.Partial {
			t.Fatalf("refused: %v", p)
		}
	}
	s.here = s.here.With(r.Changes...)
	var sent []mesh.Change
	for _, c := range r.Changes {
		if put, ok := c.(mesh.PutPolicy); ok {
			p, err := wds.ToPolicy(wds.FromPolicy(put.Policy))
			if err != nil {
				t.Fatal(err)
			}
			c = mesh.PutPolicy{Policy: p}
		}
		sent = append(sent, c)
	}
	s.there = s.there.With(sent...)
}

func (s *system) judge(t *testing.T, d dice, pod *corev1.Pod, c caller) (v verdict, which authz.Decision) {
	id := mesh.Identity{TrustDomain: c.domain, Namespace: c.namespace, ServiceAccount: c.account}
	conn := authz.Connection{Identity: id, Source: address(d, c.from), Destination: netip.AddrPortFrom(address(d, c.to), uint16(c.port))}
	got := s.evaluator.Evaluate(s.there, s.there.WorkloadByPod(string(pod.UID)), conn)
	if plain := authz.Evaluate(s.here, s.here.WorkloadByPod(string(pod.UID)), conn); !gocmp.Equal(got, plain) {
		t.Fatalf("index and Evaluate: %s", gocmp.Diff(plain, got))
	}
	names := func(ns []authz.Note) (out []string) {
		for _, n := range ns {
			out = append(out, n.Policy.String())
		}
		return out
	}
	return verdict{allowed: got.Allowed, strict: got.Reason == reason.StrictMTLS, dry: names(got.DryRun), audit: names(got.Audit)}, got
}

// TestPoliciesMeanWhatTheySay lets random policies come, change and go, and has the same connections judged by their
// documentation and by what a ztunnel makes of them.
func TestPoliciesMeanWhatTheySay(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(400) {
		d := dice{rand.New(rand.NewPCG(seed, 11))}
		w := world{authz: map[string]*istio.AuthorizationPolicy{}, peers: map[string]*istio.PeerAuthentication{}}
		s := &system{translator: kube.NewTranslator(kube.Config{ImplicitNamespaces: true, ExcludedNamespaces: []string{}}), here: mesh.NewSnapshot(), there: mesh.NewSnapshot()}
		var pods []*corev1.Pod
		for i := range 4 {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: d.namespace(), Name: fmt.Sprint("pod", i), UID: types.UID(fmt.Sprint("uid", i)), Labels: d.labels()},
				Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: fmt.Sprint("10.9.0.", i+1)}}
			pods = append(pods, p)
			s.apply(t, kube.Event{Object: p})
		}
		first := s.translator.Synced()
		s.here, s.there = s.here.With(first.Changes...), s.there.With(first.Changes...)
		for range 25 {
			switch d.IntN(8) {
			case 0, 1, 2, 3:
				p := d.authorization()
				w.authz[p.Namespace+"/"+p.Name] = p
				s.apply(t, kube.Event{Object: p})
			case 4:
				p := d.peer()
				w.peers[p.Namespace+"/"+p.Name] = p
				s.apply(t, kube.Event{Object: p})
			case 5:
				p := &istio.AuthorizationPolicy{ObjectMeta: d.meta()}
				delete(w.authz, p.Namespace+"/"+p.Name)
				s.apply(t, kube.Event{Object: p, Deleted: true})
			case 6:
				p := &istio.PeerAuthentication{ObjectMeta: d.meta()}
				delete(w.peers, p.Namespace+"/"+p.Name)
				s.apply(t, kube.Event{Object: p, Deleted: true})
			case 7:
				p := of(d, pods...)
				p.Labels = d.labels()
				s.apply(t, kube.Event{Object: p.DeepCopy()})
			}
			for range 8 {
				p, c := of(d, pods...), d.caller()
				want := w.judge(target{p.Namespace, p.Labels}, c)
				got, which := s.judge(t, d, p, c)
				if diff := gocmp.Diff(want, got, gocmp.AllowUnexported(verdict{})); diff != "" {
					t.Fatalf("seed %d: pod %s/%s %v, %+v: %+v (-want +got):\n%s\n%s", seed, p.Namespace, p.Name, p.Labels, c, which, diff, w.show())
				}
				seen[fmt.Sprint("allowed ", want.allowed)]++
				seen[fmt.Sprint("strict ", want.strict)]++
				seen["reason "+which.Reason.String()]++
				seen["dry run"] += len(want.dry)
				seen["audit"] += len(want.audit)
			}
		}
	}
	t.Log(seen)
	for _, k := range []string{"allowed true", "allowed false", "strict true", "reason POLICY_DENY", "reason POLICY_NO_ALLOW", "dry run", "audit"} {
		if seen[k] < 500 {
			t.Errorf("%s came up %d times: the test says little of it", k, seen[k])
		}
	}
}

func (w world) show() (out string) {
	for _, n := range sortedKeys(w.authz) {
		out += fmt.Sprintf("%s %v: %v\n", n, w.authz[n].Annotations, &w.authz[n].Spec)
	}
	for _, n := range sortedKeys(w.peers) {
		out += fmt.Sprintf("%s %v: %v\n", n, w.peers[n].CreationTimestamp, &w.peers[n].Spec)
	}
	return cmp.Or(out, "no policies")
}

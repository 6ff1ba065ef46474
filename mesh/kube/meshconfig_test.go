// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"math"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	pointer "k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/mesh"
)

func meshConfig(spec v1alpha1.MeshConfigSpec) *v1alpha1.MeshConfig {
	return &v1alpha1.MeshConfig{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.DefaultName, Generation: 1}, Spec: spec}
}

// TestConfigFromSpecs reads the specs that a real API server is shown as well.
func TestConfigFromSpecs(t *testing.T) {
	data, err := os.ReadFile("../../api/v1alpha1/testdata/specs.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var specs []struct {
		Name, Refused string
		Spec          json.RawMessage
	}
	if err := yaml.UnmarshalStrict(data, &specs); err != nil {
		t.Fatal(err)
	}
	if len(specs) < 40 {
		t.Fatalf("%d specs", len(specs))
	}
	for _, s := range specs {
		t.Run(s.Name, func(t *testing.T) {
			o := meshConfig(v1alpha1.MeshConfigSpec{})
			if err := yaml.UnmarshalStrict(s.Spec, &o.Spec); err != nil {
				t.Fatal(err)
			}
			_, errs := ConfigFrom(o, &mesh.Config{})
			switch {
			case s.Refused == "" && len(errs) > 0:
				t.Errorf("refused: %v", errs)
			case s.Refused != "" && (len(errs) != 1 || !strings.HasPrefix(errs[0].Field, s.Refused)):
				t.Errorf("errors %v, want one about %s", errs, s.Refused)
			}
		})
	}
}

func TestConfigFrom(t *testing.T) {
	prefixes := func(in ...string) (out []netip.Prefix) {
		for _, p := range in {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	flags := &mesh.Config{
		TrustDomain: "td", RootNamespace: "root", ClusterCIDRs: prefixes("10.0.0.0/8"), Exceptions: prefixes("192.0.2.0/24"),
	}
	kept := flags.Clone()
	drain := func(d string) v1alpha1.MeshConfigSpec {
		return v1alpha1.MeshConfigSpec{Drain: pointer.To(v1alpha1.Duration(d))}
	}
	zipkin := &v1alpha1.Zipkin{Endpoint: "http://z/"}
	for _, tt := range []struct {
		name string
		spec v1alpha1.MeshConfigSpec
		want func(*mesh.Config)
	}{
		{"nothing is the flags", v1alpha1.MeshConfigSpec{}, func(*mesh.Config) {}},
		{"strict", v1alpha1.MeshConfigSpec{MTLS: v1alpha1.MTLS{Mode: "STRICT"}}, func(c *mesh.Config) { c.MTLSStrict = true }},
		{"lists add to the flags, in order and once", v1alpha1.MeshConfigSpec{
			ClusterCIDRs: []v1alpha1.CIDR{"fd00::/8", "10.0.0.0/8"}, Exceptions: []v1alpha1.CIDR{"198.51.100.7/24", "10.1.1.1/32"},
		}, func(c *mesh.Config) {
			c.ClusterCIDRs, c.Exceptions = prefixes("10.0.0.0/8", "fd00::/8"), prefixes("10.1.1.1/32", "192.0.2.0/24", "198.51.100.0/24")
		}},
		{"aliases and labels are sorted", v1alpha1.MeshConfigSpec{
			TrustDomainAliases: []string{"b", "a"}, Metrics: v1alpha1.Metrics{DropLabels: []v1alpha1.Label{"source_zone", "source_app"}},
		}, func(c *mesh.Config) {
			c.TrustDomainAliases, c.DropLabels = []string{"a", "b"}, []string{"source_app", "source_zone"}
		}},
		{"drain", drain("1m30s"), func(c *mesh.Config) { c.Drain = 90 * time.Second }},
		{"drain at once", drain("0s"), func(c *mesh.Config) { c.Drain = -1 }},
		{"log", v1alpha1.MeshConfigSpec{SameNodeTLS: true, AccessLog: v1alpha1.AccessLog{Mode: "Off", Format: "JSON"}}, func(c *mesh.Config) {
			c.SameNodeTLS, c.AccessLog = true, mesh.AccessLog{Mode: mesh.AccessLogOff, Format: mesh.AccessLogJSON}
		}},
		{"sampling without an endpoint", v1alpha1.MeshConfigSpec{Tracing: v1alpha1.Tracing{SamplePercent: pointer.To(50.0)}}, func(*mesh.Config) {}},
		{"sampling by default", v1alpha1.MeshConfigSpec{Tracing: v1alpha1.Tracing{Zipkin: zipkin}}, func(c *mesh.Config) {
			c.Tracing = mesh.Tracing{Zipkin: "http://z/", SamplePercent: 1}
		}},
		{"sampling nothing", v1alpha1.MeshConfigSpec{Tracing: v1alpha1.Tracing{Zipkin: zipkin, SamplePercent: pointer.To(0.0)}}, func(c *mesh.Config) {
			c.Tracing = mesh.Tracing{Zipkin: "http://z/"}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, errs := ConfigFrom(meshConfig(tt.spec), flags)
			want := flags.Clone()
			tt.want(want)
			if len(errs) > 0 || !got.Equal(want) {
				t.Errorf("errors %v (-want +got):\n%s", errs, cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })))
			}
			if !flags.Equal(kept) {
				t.Fatal("the flags changed")
			}
		})
	}
	other := meshConfig(v1alpha1.MeshConfigSpec{})
	other.Name = "mine"
	if _, errs := ConfigFrom(other, flags); len(errs) != 1 || errs[0].Field != "metadata.name" {
		t.Errorf("another name: %v", errs)
	}
	if _, errs := ConfigFrom(meshConfig(v1alpha1.MeshConfigSpec{Tracing: v1alpha1.Tracing{SamplePercent: pointer.To(math.NaN())}}), flags); len(errs) != 1 {
		t.Errorf("not a number: %v", errs)
	}
}

// TestMeshConfigStrict: the MeshConfig is the default below every PeerAuthentication.
func TestMeshConfigStrict(t *testing.T) {
	strictSpec := meshConfig(v1alpha1.MeshConfigSpec{MTLS: v1alpha1.MTLS{Mode: v1alpha1.MTLSStrict}})
	name := mesh.Name{Namespace: mesh.DefaultRootNamespace, Name: mesh.MeshConfigStrict}
	w := newWorld(t, enrolledShop, webPod())
	check := func(what string, want bool) {
		t.Helper()
		refs, p := slices.Contains(w.web().Policies, name), w.store.Snapshot().Policy(name)
		if refs != want || refs && p == nil {
			t.Errorf("%s: referenced %v, policy %+v; want %v", what, refs, p, want)
		}
	}
	check("without", false)
	r := w.put(strictSpec)
	check("STRICT", true)
	if _, first := r.Changes[0].(mesh.PutConfig); !first || !w.store.Snapshot().Config().MTLSStrict {
		t.Errorf("changes %T", r.Changes)
	}
	for _, pa := range []struct {
		ns   string
		mode tlsMode
		want bool
	}{{"shop", permissive, false}, {mesh.DefaultRootNamespace, permissive, false}, {"shop", unset, true}, {mesh.DefaultRootNamespace, unset, true}, {"shop", disable, false}} {
		o := peerAuthentication(pa.ns, "x", pa.mode, 1)
		w.put(o)
		check(pa.ns+" "+pa.mode.String(), pa.want)
		w.delete(o)
		check("without it", true)
	}
	t.Run("who demands it", func(t *testing.T) {
		for _, pa := range []runtime.Object{
			peerAuthentication("shop", "x", strict, 1), peerAuthentication(mesh.DefaultRootNamespace, "x", strict, 1),
			selecting(peerAuthentication("shop", "x", strict, 1), nil), selecting(peerAuthentication("shop", "x", unset, 1), nil),
		} {
			want := "PeerAuthentication"
			if spec := &pa.(*istiosecurity.PeerAuthentication).Spec; spec.Mtls.Mode == unset {
				want = "MeshConfig"
			}
			w.put(pa)
			refs := w.web().Policies
			if len(refs) != 1 || w.store.Snapshot().Policy(refs[0]) == nil || w.store.Snapshot().Policy(refs[0]).StrictBy() != want {
				t.Errorf("%v: the pod refers to %v, want one policy, by %s", pa, refs, want)
			}
			w.delete(pa)
		}
	})
	w.put(meshConfig(v1alpha1.MeshConfigSpec{}))
	check("PERMISSIVE", false)
	if w.store.Snapshot().Policy(name) != nil {
		t.Error("the policy outlives what it was made of")
	}
	w.put(strictSpec)
	w.delete(strictSpec)
	check("deleted", false)
}

// TestRefusedMeshConfig: the last good one stays; where there is none, plaintext is refused unless it is readably allowed.
func TestRefusedMeshConfig(t *testing.T) {
	bad := func(mode v1alpha1.MTLSMode) *v1alpha1.MeshConfig {
		o := meshConfig(v1alpha1.MeshConfigSpec{MTLS: v1alpha1.MTLS{Mode: mode}, SameNodeTLS: true, Exceptions: []v1alpha1.CIDR{"x"}})
		o.Generation = 2
		return o
	}
	for mode, want := range map[v1alpha1.MTLSMode]bool{"STRICT": true, "PERMISSIVE": false, "": false, "strict": true} {
		w := newWorld(t, enrolledShop, webPod())
		apply := func(o *v1alpha1.MeshConfig) {
			r := w.tr.Apply([]Event{{Object: o}})
			if len(r.Problems) == 0 || r.Problems[0].Object != "MeshConfig default" {
				t.Errorf("%q: problems %v", mode, r.Problems)
			}
			w.store.Apply(r.Changes...)
		}
		apply(bad(mode))
		c := w.store.Snapshot().Config()
		if c.MTLSStrict != want || c.SameNodeTLS || len(c.Exceptions) > 0 {
			t.Errorf("%q, never good: %+v", mode, c)
		}
		if s := w.tr.MeshConfig(); s != (MeshConfigState{Here: true, Generation: 2, StandIn: true}) {
			t.Errorf("%q, never good: %+v", mode, s)
		}
		w.put(meshConfig(v1alpha1.MeshConfigSpec{SameNodeTLS: true}))
		apply(bad("STRICT"))
		if c := w.store.Snapshot().Config(); c.MTLSStrict || !c.SameNodeTLS {
			t.Errorf("%q: the last good one did not stay: %+v", mode, c)
		}
		if s := w.tr.MeshConfig(); s != (MeshConfigState{Here: true, Generation: 2, InForce: 1}) {
			t.Errorf("%q: %+v", mode, s)
		}
		w.store.Apply(w.tr.Apply([]Event{{Object: bad(mode), Deleted: true}}).Changes...)
		if c := w.store.Snapshot().Config(); c.SameNodeTLS || w.tr.MeshConfig() != (MeshConfigState{}) {
			t.Errorf("%q: deleted: %+v", mode, c)
		}
	}
}

func TestMeshConfigRemnant(t *testing.T) {
	k := Key{Kind: "MeshConfig", Name: "default"}
	for in, want := range map[string]v1alpha1.MTLSMode{
		`{"metadata":{"generation":7},"spec":{"mtls":{"mode":"STRICT","x":1}}}`: "STRICT",
		`{"metadata":{"generation":7},"spec":{"mtls":{"mode":5}}}`:              "unreadable",
		`{"metadata":{"generation":7},"spec":{"mtls":[]}}`:                      "unreadable",
		`{"metadata":{"generation":7},"spec":{"sameNodeTLS":"yes"}}`:            "",
		// What may have been meant to be STRICT.
		`{"metadata":{"generation":7},"spec":{"mTLS":{"mode":"STRICT"}}}`:      "unreadable",
		`{"metadata":{"generation":7},"spec":{"mtls":{"mod":"STRICT"}}}`:       "unreadable",
		`{"metadata":{"generation":7},"spec":["mtls",{"mode":"STRICT"}]}`:      "unreadable",
		`{"metadata":{"generation":7},"specs":{"mtls":{"mode":"PERMISSIVE"}}}`: "",
	} {
		o, ok := Remnant(k, []byte(in)).(*v1alpha1.MeshConfig)
		if !ok || o.Spec.MTLS.Mode != want || o.Generation != 7 || o.Name != "default" {
			t.Errorf("%s: %+v", in, o)
		}
	}
}

// FuzzConfigFrom: what is accepted is within the bounds others rely on, and reading it again changes nothing.
func FuzzConfigFrom(f *testing.F) {
	f.Add([]byte(`{"mtls":{"mode":"STRICT"},"exceptions":["10.0.0.0/8"],"drain":"5s","tracing":{"otlp":{"endpoint":"a:1"}}}`))
	f.Add([]byte(`{"trustDomainAliases":["a"],"clusterCIDRs":["::/0"],"metrics":{"dropLabels":["source_app"]},"accessLog":{"mode":"Off"}}`))
	f.Add([]byte(`{"exceptions":["::/1"],"drain":"99999h","tracing":{"zipkin":{"endpoint":"http://a:b"},"samplePercent":1e9}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var spec v1alpha1.MeshConfigSpec
		if json.Unmarshal(data, &spec) != nil {
			return
		}
		o := meshConfig(spec)
		c, errs := ConfigFrom(o, &mesh.Config{})
		if (c == nil) != (len(errs) > 0) {
			t.Fatalf("config %v with errors %v", c, errs)
		}
		if c == nil {
			return
		}
		if d := c.DrainOr(0); d < 0 || d > maxDrain || c.Tracing.SamplePercent < 0 || c.Tracing.SamplePercent > 100 {
			t.Errorf("out of bounds: %+v", c)
		}
		for _, p := range c.Exceptions {
			if !p.IsValid() || p != p.Masked() || spansIPv4(p) {
				t.Errorf("exception %v", p)
			}
		}
		if again, errs := ConfigFrom(o, c); len(errs) > 0 || !again.Equal(c) {
			t.Errorf("not the same again: %+v, %v", again, errs)
		}
	})
}

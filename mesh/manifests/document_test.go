// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh/kube"
)

func TestSplit(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string // "line kind name", or "line error ..."
	}{
		{"empty", "", nil},
		{"comments and markers", "# x\n---\n# y\n---\n", nil},
		{"null", "---\nnull\n---\n~\n", nil},
		{"one without marker", "\n\nkind: A\n", []string{"3 A"}},
		{"several", "---\nkind: A\n--- # next\n\nkind: B\n---\nkind: C", []string{"2 A", "5 B", "7 C"}},
		{"windows lines", "kind: A\r\n---\r\nkind: B\r\n", []string{"1 A", "3 B"}},
		{"marker within a line", "kind: A\nx: |\n  ---\n   ---\n", []string{"1 A"}},
		{"JSON", `{"kind": "A"}`, []string{"1 A"}},
		{"list", "apiVersion: v1\nkind: List\nitems:\n- kind: A\n- kind: B\n", []string{"4 A", "5 B"}},
		{"broken one among good ones", "kind: A\n---\nx: 1\nkind: [\n---\nkind: C\n", []string{"1 A", "error", "6 C"}},
		{"key twice", "kind: A\nkind: B\n", []string{"2 error yaml: unmarshal errors: line 2: key \"kind\" already set"}},
		{"scalar", "just words\n", []string{"1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			docs := split("f", []byte(tt.text))
			if len(docs) != len(tt.want) {
				t.Fatalf("got %d documents, want %d: %+v", len(docs), len(tt.want), docs)
			}
			for i, d := range docs {
				got := strconv.Itoa(d.line)
				if d.err != nil {
					got += " error " + d.err.Error()
				}
				if n := child2(d, "kind"); n != "" {
					got += " " + n
				}
				for _, part := range strings.SplitN(tt.want[i], " ", 2) {
					if !strings.Contains(got, part) {
						t.Errorf("document %d: got %q, want %q", i, got, tt.want[i])
					}
				}
			}
		})
	}
}

func child2(d document, key string) string {
	if d.node == nil {
		return ""
	}
	if n := child(d.node, key); n != nil {
		return n.Value
	}
	return ""
}

func TestSourceOfField(t *testing.T) {
	text := "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\n  labels:\n    warren.dev/mesh: maybe\nspec:\n  containers:\n  - name: a\n  - name: b\n    ports:\n    - containerPort: 1\n"
	d := split("dir/f.yaml", []byte("# head\n---\n"+text))[0]
	for field, want := range map[string]string{
		"":                                   "dir/f.yaml:3",
		"metadata.labels[warren.dev/mesh]":   "dir/f.yaml:8",
		"spec.containers[1].ports[0].bogus":  "dir/f.yaml:14",
		"spec.containers[1].name":            "dir/f.yaml:12",
		"spec.nothing.here":                  "dir/f.yaml:9",
		"spec.containers[7]":                 "dir/f.yaml:10",
		"spec.containers[99999999999999999]": "dir/f.yaml:10",
		"[":                                  "dir/f.yaml:3",
	} {
		if got := d.source(field); got != want {
			t.Errorf("%q: got %s, want %s", field, got, want)
		}
	}
}

func TestDecodePeerAuthenticationStrictly(t *testing.T) {
	head := "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: x, namespace: ns}\n"
	tests := []struct{ name, spec, field, text string }{
		{"good", "spec:\n  mtls: {mode: STRICT}\n", "", ""},
		{"no spec", "", "", ""},
		{"misspelt mode", "spec:\n  mtls:\n    mode: STRICTT\n", "spec.mtls.mode", `"STRICTT"`},
		{"misspelt field", "spec:\n  mtls:\n    mod: STRICT\n", "spec.mtls.mod", "unknown field"},
		{"unknown at the top", "spec:\n  tls: {}\n", "spec.tls", "unknown field"},
		{"in a map", "spec:\n  portLevelMtls:\n    80: {mode: NEVER}\n", "spec.portLevelMtls[80].mode", `"NEVER"`},
		{"wrong type", "spec:\n  mtls: 7\n", "spec", "read object"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, ok := decode(split("f.yaml", []byte(head+tt.spec))[0])
			if !ok {
				t.Fatal("passed over")
			}
			if tt.text == "" {
				if o.obj == nil || len(o.problems) != 0 {
					t.Errorf("refused: %v", o.problems)
				}
				return
			}
			if len(o.problems) != 1 || o.obj != nil {
				t.Fatalf("got %+v, want one problem", o)
			}
			if p := o.problems[0]; p.Field != tt.field || !strings.Contains(p.Error(), tt.text) || p.Object != "PeerAuthentication ns/x" {
				t.Errorf("got %q, field %q", p, p.Field)
			}
		})
	}
}

func TestDecodeAuthorizationPolicyStrictly(t *testing.T) {
	head := "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x, namespace: ns}\n"
	for _, tt := range []struct{ spec, source string }{
		{"spec:\n  action: DENY\n  rules:\n  - from:\n    - source: {namespaces: [a]}\n", ""},
		{"spec:\n  rules: []\n", ""},
		{"spec:\n  action: DENNY\n", "f.yaml:5"},
		{"spec:\n  rules:\n  - from: []\n", "f.yaml:6"},
		{"spec:\n  rules:\n  - from:\n    - source:\n        namespaces: [a]\n        principals: []\n", "f.yaml:9"},
		{"spec:\n  rules:\n  - from:\n    - source:\n        namespace: [a]\n", "f.yaml:8"},
		{"spec:\n  rules:\n  - when:\n    - key: source.ip\n      value: [a]\n", "f.yaml:8"},
	} {
		o, ok := decode(split("f.yaml", []byte(head+tt.spec))[0])
		switch {
		case !ok:
			t.Errorf("%s: passed over", tt.spec)
		case tt.source == "" && (o.obj == nil || len(o.problems) > 0):
			t.Errorf("%s: refused: %v", tt.spec, o.problems)
		case tt.source != "" && (o.obj != nil || len(o.problems) != 1 || o.problems[0].Source != tt.source):
			t.Errorf("%s: got %v, want one problem at %s", tt.spec, o.problems, tt.source)
		}
	}
}

func TestDecodePassesOverOthersKinds(t *testing.T) {
	for text, want := range map[string]bool{
		"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n":                         false,
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n":                               false,
		"apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: x}\n":             false,
		"apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: x}\n":                          true,
		"apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: x}\n": true, // and told: it would be missed
		"kind: Pod\n":                            true,
		"{}":                                     true,
		"[1, 2]":                                 true,
		"apiVersion: v1\nkind: 7\n":              true,
		"apiVersion: v1\nkind: Pod\nmetadata: 1": true,
		"apiVersion: v1\nkind: Pod\nmetadata: {name: x, namespace: no}": true,
	} {
		if _, ok := decode(split("f", []byte(text))[0]); ok != want {
			t.Errorf("%q: read %v, want %v", text, ok, want)
		}
	}
}

// FuzzManifest: whatever a file holds, it gives objects or problems that name the file, and the source goes on.
func FuzzManifest(f *testing.F) {
	for _, s := range []string{webPod, webService, shop, shop + "---\n" + webPod, "a: &a [*a]", "a: &a {<<: *a}", "- ? {}\n",
		"apiVersion: v1\nkind: List\nitems: [{kind: List, apiVersion: v1}, null, 7]",
		"apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: x}\nspec: {mtls: {mode: 9}, portLevelMtls: {x: {}}}",
		"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x}\nspec: {action: DENY, rules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}], when: [{key: source.ip, values: [x]}]}, {}]}",
		"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: x, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: [{addresses: [10.0.0.9]}]\nports: [{port: 80}]",
		"apiVersion: v1\nkind: Node\nmetadata: {name: n}\nspec: {podCIDRs: [10.0.0.0/99]}",
		"metadata: {creationTimestamp: 2020-13-45}", "\x00", "%YAML 9.9\n---\n", "!!binary x",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		start := time.Now()
		m, tr := newMerge(), kube.NewTranslator(kube.Config{Node: "a", ImplicitNamespaces: true})
		one := &file{}
		for _, d := range split("f.yaml", data) {
			if o, ok := decode(d); ok {
				one.objects = append(one.objects, &o)
			}
		}
		_, _, ps := m.step(tr, map[string]*file{"f.yaml": one}, nil, true)
		for _, p := range ps {
			if !strings.HasPrefix(p.Source, "f.yaml:") || p.Err == nil {
				t.Errorf("a problem without its place: %+v", p)
			}
		}
		m.step(tr, nil, nil, false)
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

// Package tests holds the tests that belong to no single package.
package tests

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/warren-mesh/warren/"

// pkg is what `go list -json` tells about one package.
type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

// rel is the path below the module's root, or "" for a package of another module.
func (p pkg) rel() string { return relative(p.ImportPath) }

func relative(path string) string {
	rel, ok := strings.CutPrefix(path, module)
	if !ok {
		return ""
	}
	return rel
}

// rule forbids packages to import others, and says why. Paths are prefixes at path boundaries, of this module when
// it has such a directory, otherwise of any module.
type rule struct {
	name      string
	packages  []string // whom the rule binds; empty: every package of the module
	except    []string // whom it does not bind
	forbidden []string // what they must not import; a trailing "!" means: nothing but what is allowed
	allowed   []string // what of the forbidden may be imported
	deep      bool     // indirect imports count as well
	reason    string
}

var rules = []rule{
	{
		name:      "the data path knows no control plane",
		packages:  []string{"ztunnel", "l7waypoint", "cmd/warren-ztunnel", "cmd/warren-waypoint"},
		forbidden: []string{"agent", "control", "api", "k8s.io", "sigs.k8s.io"},
		deep:      true,
		reason: "what parses strangers' bytes and holds keys must stay small, and must run where there is no Kubernetes; " +
			"shared wire types lie in mesh/wds, mesh/zds and mesh/broker",
	},
	{
		name:      "the waypoint takes three things from ztunnel",
		packages:  []string{"l7waypoint"},
		forbidden: []string{"ztunnel"},
		allowed:   []string{"ztunnel/hbone", "ztunnel/record", "ztunnel/identity", "ztunnel/authz"},
		reason:    "the waypoint is no node proxy: tunnel, certificates and matchers are shared, sockets and pods are not",
	},
	{
		name:      "kernel programs are loaded in one place",
		except:    []string{"bpf"},
		forbidden: []string{"github.com/cilium/ebpf"},
		reason:    "maps and pins have one owner, so that their layout can change in one place; others ask package bpf",
	},
	{
		name:      "interfaces are configured in one place",
		except:    []string{"agent/broker", "tests"},
		forbidden: []string{"github.com/vishvananda/netlink", "github.com/vishvananda/netns"},
		reason:    "only the broker has NET_ADMIN; an import elsewhere is code that can only fail in production",
	},
	{
		name:      "the privileged part speaks to nobody outside",
		packages:  []string{"agent/broker", "mesh/broker", "cmd/warren-broker"},
		forbidden: []string{"k8s.io", "sigs.k8s.io", "istio.io", "google.golang.org/grpc", "crypto/tls", "net/http"},
		deep:      true,
		reason:    "the broker holds every privilege of the node pod; it is reachable over two unix sockets and nothing else",
	},
	{
		name:      "the broker's wire types carry nothing along",
		packages:  []string{"mesh/broker"},
		forbidden: []string{"!"},
		allowed:   []string{"mesh/broker", "mesh/latest", "golang.org/x/sys"}, // the second is standard library alone
		deep:      true,
		reason:    "agent, broker and the sealed ztunnel all link them: standard library and x/sys only",
	},
	{
		name:      "the vocabulary depends on nothing",
		packages:  []string{"mesh", "mesh/reason"},
		forbidden: []string{"!"},
		allowed:   []string{"mesh", "mesh/reason", "github.com/benbjohnson/immutable", "golang.org/x/exp/constraints"}, // the last is the second's
		deep:      true,
		reason:    "every other package imports it: standard library and one persistent-map library only",
	},
	{
		name:      "API types are types",
		packages:  []string{"api"},
		forbidden: []string{"!"},
		allowed:   []string{"api", "k8s.io/apimachinery"},
		reason:    "others' programs may import them; what they mean is said in mesh/kube",
	},
	{
		name:      "the CNI plugin carries nothing along",
		packages:  []string{"mesh/cni", "agent/cni/plugin", "cmd/warren-cni"},
		forbidden: []string{"k8s.io", "sigs.k8s.io", "istio.io", "google.golang.org/grpc", "agent"},
		allowed:   []string{"agent/cni/plugin"},
		deep:      true,
		reason:    "it is started anew for each pod of the node, by the container runtime, and must start fast and with nothing there",
	},
	{
		name:      "one package watches Kubernetes",
		except:    []string{"mesh/kube/informers", "tests"},
		forbidden: []string{"k8s.io/client-go/tools/cache", "k8s.io/client-go/informers"},
		reason:    "objects become mesh values at the edge, in one place, so that a directory of YAML can replace the API server",
	},
	{
		name:      "the API server is spoken to in four places",
		except:    []string{"mesh/kube/apiserver", "mesh/kube/informers", "control/cluster", "cmd/internal/cluster", "tests"},
		forbidden: []string{"k8s.io/client-go", "k8s.io/streaming"},
		reason: "who connects (apiserver), who watches and publishes (informers), what only control has: keys in a Secret, " +
			"token reviews, an election, and what warrenctl's user may (cmd/internal/cluster); everything else takes interfaces " +
			"that a directory fulfils as well",
	},
	{
		name:      "port forwards are warrenctl's",
		except:    []string{"cmd/internal/ctl", "cmd/warrenctl", "tests"},
		forbidden: []string{"cmd/internal/cluster"},
		reason:    "it acts with the rights of a person; no part of the mesh reaches another through the API server",
	},
	{
		name:      "gRPC at the edges that need it",
		except:    []string{"mesh/wds", "ztunnel/identity", "ztunnel/tracing", "control", "api", "tests"},
		forbidden: []string{"google.golang.org/grpc"},
		reason:    "WDS, the CA, external authorization and OpenTelemetry's collectors speak it; elsewhere it would bring its own goroutines, timers and sockets",
	},
	{
		name:      "binaries are built from packages, not from each other's tests",
		except:    []string{"tests"},
		forbidden: []string{"tests", "testing"},
		allowed:   []string{},
		reason:    "test helpers have no place in a shipped binary",
	},
}

// exact lists packages that rules name alone, without what lies below them.
var exact = map[string]bool{"mesh": true}

func (r rule) binds(p pkg) bool {
	rel := p.rel()
	if rel == "" || under(rel, r.except) {
		return false
	}
	return len(r.packages) == 0 || under(rel, r.packages)
}

func under(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return path == root || !exact[root] && strings.HasPrefix(path, root+"/")
	})
}

func (r rule) forbids(path string, standard map[string]bool) bool {
	name := path
	if rel := relative(path); rel != "" {
		name = rel
	}
	if under(name, r.allowed) {
		return false
	}
	if slices.Contains(r.forbidden, "!") {
		return !standard[path]
	}
	return under(name, r.forbidden)
}

// violations returns "importer imports imported" for each breach of the rule.
func (r rule) violations(all []pkg, standard map[string]bool) []string {
	var out []string
	for _, p := range all {
		if !r.binds(p) {
			continue
		}
		imports := p.Imports
		if r.deep {
			imports = p.Deps
		}
		for _, i := range imports {
			if r.forbids(i, standard) {
				out = append(out, p.rel()+" imports "+i)
			}
		}
	}
	return out
}

// TestDependencies keeps the arrows between packages: who may import whom, each with its reason.
func TestDependencies(t *testing.T) {
	all, standard := listPackages(t)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			for _, v := range r.violations(all, standard) {
				t.Errorf("%s\n\tnot allowed: %s", v, r.reason)
			}
		})
	}
}

func TestRulesBite(t *testing.T) {
	standard := map[string]bool{"net": true, "crypto/tls": true}
	tests := []struct {
		name string
		rule string
		pkg  pkg
		want bool
	}{
		{"ztunnel on client-go, through another package", "the data path knows no control plane",
			pkg{ImportPath: module + "ztunnel/proxy", Deps: []string{"net", "k8s.io/client-go/rest"}}, true},
		{"ztunnel on the agent", "the data path knows no control plane", pkg{ImportPath: module + "ztunnel", Deps: []string{module + "agent"}}, true},
		{"agent on the agent", "the data path knows no control plane", pkg{ImportPath: module + "agent", Deps: []string{module + "agent/broker"}}, false},
		{"broker on TLS", "the privileged part speaks to nobody outside", pkg{ImportPath: module + "agent/broker", Deps: []string{"crypto/tls"}}, true},
		{"wire types on the standard library", "the broker's wire types carry nothing along", pkg{ImportPath: module + "mesh/broker", Deps: []string{"net"}}, false},
		{"vocabulary on its converters", "the vocabulary depends on nothing", pkg{ImportPath: module + "mesh", Deps: []string{module + "mesh/kube"}}, true},
		{"converters on Kubernetes types", "the vocabulary depends on nothing", pkg{ImportPath: module + "mesh/kube", Deps: []string{"k8s.io/api/core/v1"}}, false},
		{"waypoint on hbone", "the waypoint takes three things from ztunnel", pkg{ImportPath: module + "l7waypoint/codec", Imports: []string{module + "ztunnel/hbone"}}, false},
		{"a watch beside the informers", "one package watches Kubernetes", pkg{ImportPath: module + "control/cluster", Imports: []string{"k8s.io/client-go/tools/cache"}}, true},
		{"a binary on client-go", "the API server is spoken to in four places", pkg{ImportPath: module + "cmd/warren-agent", Imports: []string{"k8s.io/client-go/rest"}}, true},
		{"control's election", "the API server is spoken to in four places", pkg{ImportPath: module + "control/cluster", Imports: []string{"k8s.io/client-go/tools/leaderelection"}}, false},
		{"the agent on port forwards", "port forwards are warrenctl's", pkg{ImportPath: module + "agent", Imports: []string{module + "cmd/internal/cluster"}}, true},
		{"warrenctl on port forwards", "port forwards are warrenctl's", pkg{ImportPath: module + "cmd/internal/ctl", Imports: []string{module + "cmd/internal/cluster"}}, false},
		{"waypoint on sockets", "the waypoint takes three things from ztunnel", pkg{ImportPath: module + "l7waypoint", Imports: []string{module + "ztunnel/inpod"}}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i := slices.IndexFunc(rules, func(r rule) bool { return r.name == tt.rule })
			if got := len(rules[i].violations([]pkg{tt.pkg}, standard)) > 0; got != tt.want {
				t.Errorf("violation = %v, want %v", got, tt.want)
			}
		})
	}
}

// listPackages returns the module's packages, and which of all their dependencies belong to the standard library.
func listPackages(t *testing.T) ([]pkg, map[string]bool) {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Standard,Imports,Deps", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	standard := map[string]bool{}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all, standard
		} else if err != nil {
			t.Fatalf("decode go list: %v", err)
		}
		if p.Standard || strings.HasPrefix(p.ImportPath, "vendor/") {
			standard[p.ImportPath] = true
		} else if p.rel() != "" {
			all = append(all, p)
		}
	}
}

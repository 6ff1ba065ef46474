// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The go.mod files name the versions that are built, the constants those that are told.
func TestRecipesHaveTheVersionsTold(t *testing.T) {
	for _, tc := range []struct{ dir, module, version string }{
		{"kube", "k8s.io/kubernetes", KubernetesVersion},
		{"crds", "sigs.k8s.io/gateway-api", GatewayVersion},
		{"crds", "istio.io/api", istioVersion},
		{"containerd", "github.com/containerd/containerd/v2", containerdVersion},
		{"containerd", "github.com/opencontainers/runc", runcVersion},
		{"containerd", "github.com/containernetworking/plugins", pluginsVersion},
		{"coredns", "github.com/coredns/coredns", corednsVersion},
	} {
		b, err := recipeFiles.ReadFile("recipes/" + tc.dir + "/go.mod.txt")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), tc.module+" "+tc.version) {
			t.Errorf("recipes/%s/go.mod.txt does not require %s %s", tc.dir, tc.module, tc.version)
		}
	}
}

func TestRecipeKey(t *testing.T) {
	keys := map[string]string{}
	for _, r := range recipes() {
		k, err := r.key("go1.26.8 linux amd64")
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := r.key("go1.26.8 linux amd64"); again != k {
			t.Errorf("%s has two keys, %s and %s", r.name, k, again)
		}
		other, _ := r.key("go1.26.9 linux amd64")
		r.programs = append([]program{{out: "x", ldflags: "-w"}}, r.programs...)
		flags, _ := r.key("go1.26.8 linux amd64")
		if k == other || k == flags || keys[k] != "" {
			t.Errorf("%s has key %s, another compiler's is %s, with other flags %s", r.name, k, other, flags)
		}
		keys[k] = r.name
	}
}

// What is built from this module must build without the rest of it.
func TestOwnFilesUseTheStandardLibrary(t *testing.T) {
	files, err := recipes()[0].files()
	if err != nil {
		t.Fatal(err)
	}
	if files["cmd/warren-testmachine/main.go"] == nil || files["pause/main.go"] == nil || files["go.mod"] == nil {
		t.Errorf("files are %v", sortedKeys(files))
	}
	for name, b := range files {
		for line := range strings.Lines(string(b)) {
			l := strings.Trim(strings.TrimSpace(line), `"`)
			if strings.Contains(l, ".") && strings.Contains(l, "/") && strings.HasPrefix(line, "\t\"") && !strings.HasPrefix(l, "github.com/warren-mesh/warren/tests/cluster/") {
				t.Errorf("%s imports %s", name, l)
			}
		}
	}
}

func TestConflist(t *testing.T) {
	var c struct {
		Name    string
		Plugins []struct {
			Type string
			IPAM struct {
				Ranges [][]struct{ Subnet netip.Prefix }
			}
		}
	}
	text := conflist([]netip.Prefix{netip.MustParsePrefix("10.220.1.0/24"), netip.MustParsePrefix("fd00:220:0:1::/64")})
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if len(c.Plugins) != 2 || c.Plugins[0].Type != "bridge" || c.Plugins[1].Type != "portmap" {
		t.Errorf("plugins are %+v", c.Plugins)
	}
	if r := c.Plugins[0].IPAM.Ranges; len(r) != 2 || r[1][0].Subnet.String() != "fd00:220:0:1::/64" {
		t.Errorf("ranges are %v", r)
	}
}

func TestAddressesLieInTheirNetworks(t *testing.T) {
	for n := 1; n <= 9; n++ {
		v4, v6 := nodeAddresses(n)
		if !netip.MustParsePrefix(nodeNetwork4).Contains(v4) || !netip.MustParsePrefix(nodeNetwork6).Contains(v6) || v4 == control4 || v6 == control6 {
			t.Errorf("node %d has %s and %s", n, v4, v6)
		}
	}
	for _, a := range []netip.Addr{apiService, dns4} {
		if !netip.MustParsePrefix(serviceNetwork4).Contains(a) {
			t.Errorf("%s is not in %s", a, serviceNetwork4)
		}
	}
	for _, a := range []netip.Addr{apiService6, dns6} {
		if !netip.MustParsePrefix(serviceNetwork6).Contains(a) {
			t.Errorf("%s is not in %s", a, serviceNetwork6)
		}
	}
}

func TestOptions(t *testing.T) {
	for name, ok := range map[string]bool{"warren": true, "e2e-1": true, "": true, "../x": false, "a.b": false, "A": false, "-x": false, strings.Repeat("a", 23): false} {
		if err := (Options{Name: name}).withDefaults().validate(); (err == nil) != ok {
			t.Errorf("name %q: %v", name, err)
		}
	}
	for nodes, ok := range map[int]bool{0: true, 1: true, 9: true, 10: false, -1: false} {
		if err := (Options{Nodes: nodes}).withDefaults().validate(); (err == nil) != ok {
			t.Errorf("%d nodes: %v", nodes, err)
		}
	}
}

func TestDecode(t *testing.T) {
	all, err := decode("# only a comment\n---\nkind: A\nmetadata: {name: a}\n---\n---\nkind: B\n")
	if err != nil || len(all) != 2 || all[0].GetName() != "a" || all[1].GetKind() != "B" {
		t.Errorf("decoded %v, %v", all, err)
	}
	if _, err := decode("kind: [A"); err == nil {
		t.Error("what is no YAML was decoded")
	}
}

func TestImageIsReproducible(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tool")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	for _, w := range []*bytes.Buffer{&first, &second} {
		if err := Binary("example.com/tool:test", file).WriteArchive(w); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) || !bytes.Contains(first.Bytes(), []byte("example.com/tool:test")) {
		t.Error("two archives of one image differ")
	}
	if err := Binary("no tag at all:", file).WriteArchive(&first); err == nil {
		t.Error("an image with a bad reference was made")
	}
	if err := Binary("example.com/tool:test", file+".none").WriteArchive(&first); err == nil {
		t.Error("an image of no file was made")
	}
}

func TestChecks(t *testing.T) {
	object := func(kind string, generation int64, status map[string]any) *unstructured.Unstructured {
		o := &unstructured.Unstructured{Object: map[string]any{"kind": kind, "spec": map[string]any{"replicas": int64(2)}, "status": status}}
		o.SetGeneration(generation)
		return o
	}
	full := map[string]any{"observedGeneration": int64(1), "replicas": int64(2), "updatedReplicas": int64(2), "readyReplicas": int64(2), "availableReplicas": int64(2)}
	old := map[string]any{"observedGeneration": int64(1), "replicas": int64(3), "updatedReplicas": int64(2), "availableReplicas": int64(2)}
	daemons := map[string]any{"observedGeneration": int64(1), "desiredNumberScheduled": int64(2), "updatedNumberScheduled": int64(2), "numberAvailable": int64(2), "currentNumberScheduled": int64(2)}
	conditions := func(status string) map[string]any {
		return map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": status}}}
	}
	for _, tc := range []struct {
		name  string
		check Check
		o     *unstructured.Unstructured
		ok    bool
	}{
		{"rolled out", RolledOut(), object("Deployment", 1, full), true},
		{"rolled out, stateful", RolledOut(), object("StatefulSet", 1, full), true},
		{"not observed", RolledOut(), object("Deployment", 2, full), false},
		{"old replica left", RolledOut(), object("Deployment", 1, old), false},
		{"nothing there", RolledOut(), nil, false},
		{"daemons", RolledOut(), object("DaemonSet", 1, daemons), true},
		{"no daemons", RolledOut(), object("DaemonSet", 0, nil), false},
		{"ready", Condition("Ready"), object("Pod", 1, conditions("True")), true},
		{"not ready", Condition("Ready"), object("Pod", 1, conditions("False")), false},
		{"another condition", Condition("Other"), object("Pod", 1, conditions("True")), false},
		{"there", Exists(), object("Pod", 1, nil), true},
		{"not there", Exists(), nil, false},
		{"gone", Gone(), nil, true},
		{"not gone", Gone(), object("Pod", 1, nil), false},
	} {
		if missing := tc.check(tc.o); (missing == "") != tc.ok {
			t.Errorf("%s: %q", tc.name, missing)
		}
	}
}

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	c := newReport(&out).compiler("kube")
	c.said = c.said.Add(-2 * progressEvery)
	_, _ = c.Write([]byte("go: downloading k8s.io/api v1\nk8s.io/api/co"))
	c.total, c.said = 9, c.said.Add(-2*progressEvery)
	_, _ = c.Write([]byte("re/v1\n# k8s.io/broken\nmain.go:1:2: no such thing\n"))
	if c.compiled != 1 || c.download != 1 || c.tail() != "# k8s.io/broken\nmain.go:1:2: no such thing" {
		t.Errorf("compiled %d, downloaded %d, tail %q", c.compiled, c.download, c.tail())
	}
	if !strings.Contains(out.String(), "kube: 1 modules fetched, 1 of at most 9 packages compiled") {
		t.Errorf("said %q", &out)
	}
}

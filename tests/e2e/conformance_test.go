// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/warren-mesh/warren/tests/cluster"
)

// conformanceNamespaces are the suite's own; it makes them with what runs in them.
var conformanceNamespaces = []string{"gateway-conformance-mesh", "gateway-conformance-mesh-consumer"}

// TestConformance runs the core of the Gateway API's mesh suite (profile MESH-HTTP) twice: as if there were no mesh, then
// with its namespaces enrolled. Without waypoints no route is obeyed, so the mesh may not pass more; it must not pass less.
func TestConformance(t *testing.T) {
	m := SharedForLong(t)
	s := newSuite(t, m)
	bare := s.run(t, "bare")
	s.enrol(t)
	meshed := s.run(t, "meshed")
	for _, name := range slices.Sorted(maps.Keys(bare)) {
		t.Logf("%-45s bare: %-5t meshed: %t", name, bare[name], meshed[name])
		if bare[name] && !meshed[name] {
			t.Errorf("%s passes without the mesh and fails with it", name)
		}
	}
	for _, name := range []string{"MeshBasic", "MeshHTTPRouteSimpleSameNamespace"} {
		if !meshed[name] {
			t.Errorf("%s needs no waypoint and does not pass", name)
		}
	}
}

// suite is the conformance suite as a program, with its images on the nodes.
type suite struct {
	*Mesh
	program, dir string
}

func newSuite(t *testing.T, m *Mesh) *suite {
	t.Helper()
	dir := t.TempDir()
	s := &suite{m, filepath.Join(dir, "suite"), dir}
	s.build(t, "../conformance", "test", "-c", "-o", s.program, ".")
	const echo = "istio.io/istio/pkg/test/echo/cmd/"
	s.build(t, "../istio", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", echo+"client", echo+"server")
	key, cert := selfSigned(t, "echo")
	for name, b := range map[string][]byte{"cert.key": key, "cert.crt": cert} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.LoadImage(t.Context(), cluster.Image{
		Ref:        "registry.k8s.io/gateway-api/echo-advanced:v1.5.1",
		Entrypoint: []string{"/usr/local/bin/server"},
		Files: map[string]string{
			"/usr/local/bin/server": filepath.Join(dir, "server"), "/usr/local/bin/client": filepath.Join(dir, "client"),
			"/cert.key": filepath.Join(dir, "cert.key"), "/cert.crt": filepath.Join(dir, "cert.crt"),
		},
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.remove(t) })
	return s
}

func (s *suite) build(t *testing.T, module string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir, cmd.Env = module, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build in %s: %v\n%s", module, err, out)
	}
}

var (
	suiteEnd = regexp.MustCompile(`(?m)^    --- (PASS|FAIL): TestSuite/(Mesh\w+) `)
	// One answer is enough, for without routes obeyed which backend answers is chance; ten seconds give it its chance.
	patience = "--timeout-config-overrides=MaxTimeToConsistency:10;RequiredConsecutiveSuccesses:1;NamespacesMustBeReady:120"
)

// run runs the suite and returns which tests passed. It leaves the namespaces.
func (s *suite) run(t *testing.T, name string) map[string]bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	report := filepath.Join(s.dir, name+".yaml")
	cmd := exec.CommandContext(ctx, s.program, "-test.v", "-test.run=TestSuite", "--conformance-profiles=MESH-HTTP",
		"--supported-features=Mesh,HTTPRoute", "--cleanup-base-resources=false", patience, "--report-output="+report, "--mesh-name=warren",
		"--organization=warren-mesh", "--project=warren", "--url=https://github.com/warren-mesh/warren", "--version=devel", "--contact=@warren-mesh")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.Kubeconfig())
	out, err := cmd.CombinedOutput()
	passed := map[string]bool{}
	for _, end := range suiteEnd.FindAllSubmatch(out, -1) {
		passed[string(end[2])] = string(end[1]) == "PASS"
	}
	if len(passed) < 7 || ctx.Err() != nil {
		t.Fatalf("the suite ran %d tests: %v\n%s", len(passed), err, out[max(0, len(out)-8000):])
	}
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s:\n%s", name, b)
	return passed
}

// enrol takes the running pods of the suite into the mesh.
func (s *suite) enrol(t *testing.T) {
	t.Helper()
	patch := []byte(`{"metadata":{"labels":{"` + enrolment + `":"enabled"}}}`)
	for _, ns := range conformanceNamespaces {
		if _, err := s.Client().CoreV1().Namespaces().Patch(t.Context(), ns, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, ns := range conformanceNamespaces {
		_, err := s.watchPods(ctx, ns, "app", func(pods []corev1.Pod) string {
			for _, p := range pods {
				if p.DeletionTimestamp == nil && p.Annotations[capturedAnnotation] != "true" {
					return p.Name + " is not captured"
				}
			}
			return ""
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (s *suite) remove(t *testing.T) {
	for _, ns := range conformanceNamespaces {
		if err := s.Client().CoreV1().Namespaces().Delete(context.Background(), ns, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	}
}

// selfSigned makes a certificate for a name, and its key, both PEM.
func selfSigned(t *testing.T, name string) (key, cert []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	var kb, cb bytes.Buffer
	_ = pem.Encode(&kb, &pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	_ = pem.Encode(&cb, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	return kb.Bytes(), cb.Bytes()
}

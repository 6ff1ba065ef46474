// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/control"
	"github.com/warren-mesh/warren/control/ca"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/mesh/manifests"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/identity"
)

func TestTwoNodesTalkWithControlsCertificates(t *testing.T) {
	r := start(t)
	r.objects.pod("web", "a", mesh.Captured)
	r.objects.pod("db", "b", mesh.Pending)
	close(r.objects.synced)
	a, b := r.node(t, tokenA), r.node(t, tokenB)
	a.store.Want(sa("web"))
	b.store.Want(sa("db"))
	client, err := a.store.ClientConfig(context.Background(), sa("web"), []string{sa("db").String()})
	if err != nil {
		t.Fatal(err)
	}
	server, err := b.store.ServerConfig(context.Background(), sa("db"))
	if err != nil {
		t.Fatal(err)
	}
	l, addr := listen(t)
	defer l.Close()
	accepted := make(chan *tls.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			close(accepted)
			return
		}
		s := tls.Server(c, server)
		_ = s.Handshake()
		accepted <- s
	}()
	c, err := tls.Dial("tcp", addr.String(), client)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := <-accepted
	defer s.Close()
	if got, err := b.store.Peer(s.ConnectionState()); err != nil || got != sa("web") {
		t.Errorf("server saw %v, %v", got, err)
	}
	if got, err := a.store.Peer(c.ConnectionState()); err != nil || got != sa("db") {
		t.Errorf("client saw %v, %v", got, err)
	}
	if cs := c.ConnectionState(); cs.CurveID != tls.X25519MLKEM768 || len(cs.PeerCertificates) != 2 {
		t.Errorf("key exchange %v, %d certificates on the wire", cs.CurveID, len(cs.PeerCertificates))
	}
}

func TestWhoGetsNoCertificate(t *testing.T) {
	r := start(t)
	r.objects.pod("web", "a", mesh.Captured)
	r.objects.pod("db", "b", mesh.Captured)
	r.objects.pod("plain", "a", mesh.Outside)
	foreign := sa("web")
	foreign.TrustDomain = "elsewhere.example"
	other := sa("web")
	other.Namespace = "bank"

	early := r.node(t, tokenA)
	expectRefusal(t, r, early.obtain(t, sa("web")), codes.Unavailable, reason.NotReady)
	close(r.objects.synced)

	tests := []struct {
		name  string
		token string
		id    mesh.Identity
		code  codes.Code
		want  reason.Reason
	}{
		{"the pod runs on another node", tokenA, sa("db"), codes.PermissionDenied, reason.NotOnNode},
		{"no such pod", tokenA, sa("nobody"), codes.PermissionDenied, reason.NotOnNode},
		{"same service account name in another namespace", tokenA, other, codes.PermissionDenied, reason.NotOnNode},
		{"a pod outside the mesh", tokenA, sa("plain"), codes.PermissionDenied, reason.NotOnNode},
		{"control's own", tokenA, mesh.Identity{TrustDomain: "cluster.local", Namespace: "warren-system", ServiceAccount: "warren-control"}, codes.PermissionDenied, reason.NotOnNode},
		{"another trust domain", tokenA, foreign, codes.PermissionDenied, reason.ForeignTrustDomain},
		{"a wrong token", "token-of-node-a-012345678X", sa("web"), codes.Unauthenticated, reason.NodeUnproven},
		{"the beginning of a token", tokenA[:20], sa("web"), codes.Unauthenticated, reason.NodeUnproven},
		{"no token", "", sa("web"), codes.Unauthenticated, reason.NodeUnproven},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			expectRefusal(t, r, r.node(t, tt.token).obtain(t, tt.id), tt.code, tt.want)
		})
	}
	if err := r.node(t, tokenA).obtain(t, sa("web")); err != nil {
		t.Errorf("the right node for its own pod: %v", err)
	}
	r.objects.store.Apply(mesh.DeleteWorkload{UID: "Kubernetes//Pod/shop/web"})
	expectRefusal(t, r, r.node(t, tokenA).obtain(t, sa("web")), codes.PermissionDenied, reason.NotOnNode)

	page := get(t, r.metrics, "/metrics")
	for _, line := range []string{
		"warren_ca_certificates_issued_total 1",
		`warren_ca_requests_refused_total{reason="NODE_UNPROVEN"}`,
		`warren_ca_requests_refused_total{reason="NOT_ON_NODE"}`,
	} {
		if !strings.Contains(page, line) {
			t.Errorf("metrics lack %s", line)
		}
	}
	if log := r.log.String(); strings.Contains(log, tokenA) || strings.Contains(log, tokenB) {
		t.Error("the log holds a token")
	}
}

func expectRefusal(t *testing.T, r *running, err error, code codes.Code, want reason.Reason) {
	t.Helper()
	if identity.ReasonOf(err) != reason.NoCertificate || status.Code(cause(err)) != code || !strings.Contains(err.Error(), want.String()) {
		t.Errorf("got %v (%v), want %v %v", err, status.Code(cause(err)), code, want)
	}
	if !strings.Contains(r.log.String(), "reason="+want.String()) {
		t.Errorf("control did not log %v", want)
	}
}

// cause digs out the gRPC status among joined errors.
func cause(err error) error {
	for {
		switch x := err.(type) {
		case interface{ GRPCStatus() *status.Status }:
			return err
		case interface{ Unwrap() error }:
			err = x.Unwrap()
		case interface{ Unwrap() []error }:
			for _, e := range x.Unwrap() {
				if c := cause(e); c != nil {
					return c
				}
			}
			return nil
		default:
			return nil
		}
	}
}

func TestClientRefusesAnImpostorOfControl(t *testing.T) {
	r := start(t)
	r.objects.pod("web", "a", mesh.Captured)
	close(r.objects.synced)
	// Another authority altogether, and a workload of the mesh at control's address.
	stranger := start(t)
	err := r.node(t, tokenA, stranger.ca).obtain(t, sa("web"))
	if err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("another authority: %v", err)
	}
	n := r.node(t, tokenA)
	n.store.Want(sa("web"))
	server, err := n.store.ServerConfig(context.Background(), sa("web"))
	if err != nil {
		t.Fatal(err)
	}
	server = server.Clone()
	server.ClientAuth, server.VerifyConnection = tls.NoClientCert, nil
	l, addr := listen(t)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = tls.Server(c, server).Handshake()
			_ = c.Close()
		}
	}()
	err = r.node(t, tokenA, addr).obtain(t, sa("web"))
	if err == nil || !strings.Contains(err.Error(), "verify control: it is spiffe://cluster.local/ns/shop/sa/web") {
		t.Errorf("a workload at control's address: %v", err)
	}
}

func TestClientMovesToAnAddressThatWorks(t *testing.T) {
	r := start(t)
	r.objects.pod("web", "a", mesh.Captured)
	close(r.objects.synced)
	l, dead := listen(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	impostor := start(t).ca
	n := r.node(t, tokenA, dead, impostor, r.ca)
	n.store.Want(sa("web"))
	if _, err := n.store.ServerConfig(context.Background(), sa("web")); err != nil {
		t.Error(err)
	}
}

func TestClientLeavesAnAddressThatIsSilent(t *testing.T) {
	r := start(t)
	r.objects.pod("web", "a", mesh.Captured)
	close(r.objects.synced)
	l, silent := listen(t) // the kernel accepts, nobody ever answers
	defer l.Close()
	n := r.node(t, tokenA, silent, r.ca)
	n.store.Want(sa("web"))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := n.store.ServerConfig(ctx, sa("web")); err != nil {
		t.Error(err)
	}
}

// TestClientWaitsForControlToReturn: with control gone the valid certificate stays in use, and a pod that starts
// meanwhile gets its own as soon as control is back.
func TestClientWaitsForControlToReturn(t *testing.T) {
	r := start(t)
	r.objects.pod("web", "a", mesh.Captured)
	r.objects.pod("late", "a", mesh.Captured)
	close(r.objects.synced)
	n := r.node(t, tokenA)
	n.store.Want(sa("web"))
	if _, err := n.store.ServerConfig(context.Background(), sa("web")); err != nil {
		t.Fatal(err)
	}
	r.stop()
	n.store.Want(sa("late"))
	eventually(t, "a failed fetch", func() bool {
		for _, c := range n.store.Certificates() {
			if c.Identity == sa("late") && c.Error != "" {
				return true
			}
		}
		return false
	})
	if _, err := n.store.ServerConfig(context.Background(), sa("web")); err != nil {
		t.Errorf("the certificate that is still valid: %v", err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := n.store.ServerConfig(context.Background(), sa("late"))
		got <- err
	}()
	r.serve(t)
	if err := <-got; err != nil {
		t.Errorf("after control returned: %v", err)
	}
}

func TestTokensAreReadAgain(t *testing.T) {
	r := start(t)
	r.objects.pod("web", "a", mesh.Captured)
	close(r.objects.synced)
	n := r.node(t, tokenA)
	if err := n.obtain(t, sa("web")); err != nil {
		t.Fatal(err)
	}
	next := "the-next-token-of-node-a"
	write(t, filepath.Join(r.tokens, ".next"), next)
	if err := os.Rename(filepath.Join(r.tokens, ".next"), filepath.Join(r.tokens, "a")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old token refused", func() bool {
		err := n.obtain(t, sa("web"))
		return err != nil && strings.Contains(err.Error(), reason.NodeUnproven.String())
	})
	n.token.Store(&next)
	eventually(t, "the new one accepted", func() bool { return n.obtain(t, sa("web")) == nil }) // its rate may be used up
}

// TestPodsFromManifests: the same with the objects as an operator writes them.
func TestPodsFromManifests(t *testing.T) {
	r := start(t)
	r.stop()
	r.source = manifests.New(r.manifests, kube.Config{ImplicitNamespaces: true}, slog.New(slog.DiscardHandler))
	pod := func(name, node, mesh string) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: %[1]s, uid: uid-%[1]s, labels: {warren.dev/mesh: %[3]s}}
spec: {nodeName: %[2]s, serviceAccountName: %[1]s, containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 10.0.0.%[4]d, podIPs: [{ip: 10.0.0.%[4]d}]}
---`, name, node, mesh, len(name))
	}
	file := filepath.Join(r.manifests, "shop.yaml")
	write(t, file, pod("web", "a", "enabled")+pod("cache", "b", "enabled")+pod("plain", "a", "disabled"))
	r.serve(t)
	eventually(t, "ready", func() bool { return strings.TrimSpace(get(t, r.ready, "/healthz/ready")) == "ready" })
	n := r.node(t, tokenA)
	if err := n.obtain(t, sa("web")); err != nil {
		t.Error(err)
	}
	expectRefusal(t, r, n.obtain(t, sa("cache")), codes.PermissionDenied, reason.NotOnNode)
	expectRefusal(t, r, n.obtain(t, sa("plain")), codes.PermissionDenied, reason.NotOnNode)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "refused once the pod is gone", func() bool {
		err := n.obtain(t, sa("web"))
		return err != nil && strings.Contains(err.Error(), reason.NotOnNode.String())
	})
}

func TestReadinessAndBundle(t *testing.T) {
	r := start(t)
	eventually(t, "everything but the objects", func() bool {
		return strings.TrimSpace(get(t, r.ready, "/healthz/ready")) == "not ready, pending: objects-synced"
	})
	close(r.objects.synced)
	eventually(t, "ready", func() bool { return strings.TrimSpace(get(t, r.ready, "/healthz/ready")) == "ready" })
	pem, err := manifests.ReadBundle(r.manifests)
	if err != nil || !bytes.HasPrefix(pem, []byte("-----BEGIN CERTIFICATE-----")) || bytes.Contains(pem, []byte("PRIVATE")) {
		t.Errorf("bundle %q, %v", pem, err)
	}
}

// failing is a publisher that fails until it is told not to.
type failing struct {
	control.Publisher
	works atomic.Bool
	tries atomic.Int32
}

func (f *failing) PublishTrust(ctx context.Context, t ca.Trust) error {
	f.tries.Add(1)
	if !f.works.Load() {
		return errors.New("exceeded quota")
	}
	return f.Publisher.PublishTrust(ctx, t)
}

func TestAFailureToPublishIsLoggedOnce(t *testing.T) {
	r := start(t)
	r.stop()
	f := &failing{Publisher: r.publisher}
	r.publisher = f
	r.serve(t)
	close(r.objects.synced)
	eventually(t, "several tries", func() bool { return f.tries.Load() >= 3 })
	if page := strings.TrimSpace(get(t, r.ready, "/healthz/ready")); page != "not ready, pending: root-bundle-published" {
		t.Errorf("meanwhile: %s", page)
	}
	f.works.Store(true)
	eventually(t, "ready", func() bool { return strings.TrimSpace(get(t, r.ready, "/healthz/ready")) == "ready" })
	if n := strings.Count(r.log.String(), "root bundle not published"); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
}

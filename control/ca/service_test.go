// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	security "istio.io/api/security/v1alpha1"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

type proverFunc func(token string) (string, error)

func (f proverFunc) Prove(_ context.Context, token string) (string, error) { return f(token) }

// service returns a service whose callers are the node named by their token, and its metrics.
func service(t *testing.T, a *opened, workloads ...*mesh.Workload) (*Service, *prometheus.Registry) {
	t.Helper()
	store := mesh.NewStore()
	for _, w := range workloads {
		store.Apply(mesh.PutWorkload{Workload: w})
	}
	reg := prometheus.NewRegistry()
	return NewService(ServiceConfig{
		Authority: a.Authority, Snapshot: store.Snapshot, Now: func() time.Time { return a.now },
		Prover: proverFunc(func(token string) (string, error) {
			if token == "" {
				return "", errNoToken
			}
			return token, nil
		}),
		Log: slog.New(slog.DiscardHandler), Registerer: reg,
	}), reg
}

func call(token string) context.Context {
	return metadata.NewIncomingContext(context.Background(), metadata.Pairs("authorization", "Bearer "+token))
}

func impersonate(id string) *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{ImpersonatedIdentity: structpb.NewStringValue(id)}}
}

func webPod() *mesh.Workload {
	return &mesh.Workload{UID: "w", PodUID: "u", Namespace: "shop", Name: "web", ServiceAccount: "web", Node: "a", Capture: mesh.Captured}
}

func TestRequests(t *testing.T) {
	a := open(t)
	s, reg := service(t, a, webPod())
	plain := string(webCSR(t))
	tests := []struct {
		name string
		ctx  context.Context
		req  *security.IstioCertificateRequest
		code codes.Code
		want reason.Reason
	}{
		{"by metadata", call("a"), &security.IstioCertificateRequest{Csr: plain, Metadata: impersonate(web().String())}, codes.OK, 0},
		{"by the CSR", call("a"), &security.IstioCertificateRequest{Csr: plain}, codes.OK, 0},
		{"CSR and metadata differ", call("a"), &security.IstioCertificateRequest{Csr: plain, Metadata: impersonate("spiffe://cluster.local/ns/shop/sa/db")}, codes.PermissionDenied, reason.IdentityMismatch},
		{"metadata is no identity", call("a"), &security.IstioCertificateRequest{Csr: plain, Metadata: impersonate("web")}, codes.InvalidArgument, reason.BadCertificateRequest},
		{"no CSR", call("a"), &security.IstioCertificateRequest{Metadata: impersonate(web().String())}, codes.InvalidArgument, reason.BadCertificateRequest},
		{"nothing", call("a"), &security.IstioCertificateRequest{}, codes.InvalidArgument, reason.BadCertificateRequest},
		{"no headers", context.Background(), &security.IstioCertificateRequest{Csr: plain}, codes.Unauthenticated, reason.NodeUnproven},
		{"two tokens", metadata.NewIncomingContext(context.Background(), metadata.Pairs("authorization", "Bearer a", "authorization", "Bearer b")), &security.IstioCertificateRequest{Csr: plain}, codes.Unauthenticated, reason.NodeUnproven},
		{"another scheme", metadata.NewIncomingContext(context.Background(), metadata.Pairs("authorization", "Basic a")), &security.IstioCertificateRequest{Csr: plain}, codes.Unauthenticated, reason.NodeUnproven},
		{"another node", call("b"), &security.IstioCertificateRequest{Csr: plain}, codes.PermissionDenied, reason.NotOnNode},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := s.CreateCertificate(tt.ctx, tt.req)
			if status.Code(err) != tt.code {
				t.Fatalf("got %v, want %v", err, tt.code)
			}
			if tt.code == codes.OK {
				if err := verify(t, resp.GetCertChain(), a.Trust().Roots, a.now); err != nil {
					t.Error(err)
				}
				return
			}
			if !strings.HasPrefix(status.Convert(err).Message(), tt.want.String()+": ") {
				t.Errorf("message %q, want %v", status.Convert(err).Message(), tt.want)
			}
			if testutil.ToFloat64(s.metrics.refused.WithLabelValues(tt.want.String())) == 0 {
				t.Error("not counted")
			}
		})
	}
	if p, err := testutil.GatherAndLint(reg); err != nil || len(p) > 0 {
		t.Errorf("metrics: %v %v", p, err)
	}
}

func TestOnNode(t *testing.T) {
	with := func(f func(*mesh.Workload)) *mesh.Workload { w := webPod(); f(w); return w }
	tests := []struct {
		name string
		w    *mesh.Workload
		node string
		want bool
	}{
		{"captured", webPod(), "a", true},
		{"pending", with(func(w *mesh.Workload) { w.Capture = mesh.Pending }), "a", true},
		{"ready before enrolled", with(func(w *mesh.Workload) { w.Capture = mesh.ReadyBeforeEnrolled }), "a", true},
		{"outside", with(func(w *mesh.Workload) { w.Capture = mesh.Outside }), "a", false},
		{"host network", with(func(w *mesh.Workload) { w.HostNetwork = true }), "a", false},
		{"no pod", with(func(w *mesh.Workload) { w.PodUID = "" }), "a", false},
		{"another node", webPod(), "b", false},
		{"not scheduled, and a caller of no name", with(func(w *mesh.Workload) { w.Node = "" }), "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := onNode(mesh.NewSnapshot().With(mesh.PutWorkload{Workload: tt.w}), tt.node, web()); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestOwnIdentity: no node gets control's identity, though it reports control's pod as captured.
func TestOwnIdentity(t *testing.T) {
	own := webPod()
	own.Namespace, own.ServiceAccount = ControlNamespace, ControlServiceAccount
	s, _ := service(t, open(t), own)
	req := &security.IstioCertificateRequest{Csr: string(csr(t, &x509.CertificateRequest{URIs: []*url.URL{uri(t, own.Identity().String())}}, newTestKey(t)))}
	if _, err := s.CreateCertificate(call("a"), req); status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v, want permission denied", err)
	}
}

// TestServeThatNeverBegan: a server told to end before it served ends in order.
func TestServeThatNeverBegan(t *testing.T) {
	s, _ := service(t, open(t))
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := s.Serve(ctx, l, func() { cancel(); time.Sleep(time.Millisecond) }); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRateIsPerNode(t *testing.T) {
	a := open(t)
	s, _ := service(t, a, webPod())
	req := &security.IstioCertificateRequest{Csr: "x"}
	for range nodeBurst {
		if _, err := s.CreateCertificate(call("b"), req); status.Code(err) != codes.InvalidArgument {
			t.Fatal(err)
		}
	}
	if _, err := s.CreateCertificate(call("b"), req); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), reason.RateLimit.String()) {
		t.Errorf("past the burst: %v", err)
	}
	if _, err := s.CreateCertificate(call("a"), &security.IstioCertificateRequest{Csr: string(webCSR(t))}); err != nil {
		t.Errorf("another node: %v", err)
	}
	a.now = a.now.Add(time.Second)
	if _, err := s.CreateCertificate(call("b"), req); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a second later: %v", err)
	}
}

// TestStrangersFillNoLog: refusals of callers that prove nothing are all counted, and logged at a bounded rate that
// takes nothing from the lines about nodes.
func TestStrangersFillNoLog(t *testing.T) {
	a := open(t)
	s, _ := service(t, a, webPod())
	var log strings.Builder
	s.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	const calls = 10 * linesBurst
	stranger := func(n int) {
		for range n {
			if _, err := s.CreateCertificate(context.Background(), &security.IstioCertificateRequest{}); status.Code(err) != codes.Unauthenticated {
				t.Fatal(err)
			}
		}
	}
	said := func(why reason.Reason) int { return strings.Count(log.String(), "reason="+why.String()+" ") }
	stranger(calls)
	if got := said(reason.NodeUnproven); got != linesBurst {
		t.Errorf("%d calls without a token: %d lines, want %d", calls, got, linesBurst)
	}
	if got := testutil.ToFloat64(s.metrics.refused.WithLabelValues(reason.NodeUnproven.String())); got != calls {
		t.Errorf("%v counted, want %d", got, calls)
	}
	for range nodeBurst + calls {
		_, _ = s.CreateCertificate(call("b"), &security.IstioCertificateRequest{Csr: "x"})
	}
	if got := said(reason.BadCertificateRequest); got != nodeBurst {
		t.Errorf("a node's bad requests: %d lines, want %d", got, nodeBurst)
	}
	if got := said(reason.RateLimit); got != linesBurst {
		t.Errorf("a node that asks too often: %d lines, want %d", got, linesBurst)
	}
	a.now = a.now.Add(time.Second)
	log.Reset()
	stranger(2)
	if got := said(reason.NodeUnproven); got != linesPerSecond || !strings.Contains(log.String(), " unsaid=180 ") {
		t.Errorf("a second later: %d lines: %s", got, log.String())
	}
}

func TestTokenDir(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a": "token-of-node-a-0123\n", "b": "token-of-node-b-0123", "short": "short", "empty": "",
		"twin1": "the-same-token-twice", "twin2": "the-same-token-twice", ".hidden": "token-in-a-dotfile-01",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	d := NewTokenDir(dir, slog.New(slog.NewTextHandler(&log, nil)))
	for token, want := range map[string]string{
		"token-of-node-a-0123": "a", "token-of-node-b-0123": "b", "short": "", "": "",
		"the-same-token-twice": "", "token-in-a-dotfile-01": "", "token-of-node-a-0124": "", "token-of-node-a-012": "",
		strings.Repeat("x", maxToken+1): "",
	} {
		if got, err := d.Prove(context.Background(), token); got != want || (err == nil) != (want != "") {
			t.Errorf("%.30q: %q, %v; want %q", token, got, err, want)
		}
	}
	for _, node := range []string{"node=short", "node=empty", "node=twin2", "node=directory"} {
		if strings.Count(log.String(), node+" ") != 1 {
			t.Errorf("log does not complain once of %s:\n%s", node, &log)
		}
	}
	if _, err := NewTokenDir(dir+"/gone", slog.New(slog.DiscardHandler)).Prove(context.Background(), "token-of-node-a-0123"); err == nil {
		t.Error("a missing directory proves nodes")
	}
}

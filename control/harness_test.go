// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/control"
	"github.com/warren-mesh/warren/control/ca"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/manifests"
	"github.com/warren-mesh/warren/ztunnel/identity"
)

// objects is a source whose pods a test puts there.
type objects struct {
	store  *mesh.Store
	synced chan struct{}
}

func (o *objects) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (o *objects) Store() *mesh.Store            { return o.store }
func (o *objects) Synced() <-chan struct{}       { return o.synced }
func (o *objects) pod(name, node string, c mesh.Capture) {
	o.store.Apply(mesh.PutWorkload{Workload: &mesh.Workload{
		UID: "Kubernetes//Pod/shop/" + name, PodUID: "uid-" + name, Namespace: "shop", Name: name,
		ServiceAccount: name, Node: node, Capture: c, TrustDomain: "cluster.local",
	}})
}

// running is a control server of a test.
type running struct {
	objects            *objects
	manifests, tokens  string
	ca, metrics, ready netip.AddrPort
	log                *logBuffer
	dir                string
	stop               func()
	source             control.Objects
	publisher          control.Publisher
}

const (
	tokenA = "token-of-node-a-0123456789"
	tokenB = "token-of-node-b-0123456789"
)

func start(t *testing.T) *running {
	t.Helper()
	r := &running{
		objects:   &objects{store: mesh.NewStore(), synced: make(chan struct{})},
		manifests: t.TempDir(), tokens: t.TempDir(), dir: filepath.Join(t.TempDir(), "ca"), log: &logBuffer{},
	}
	write(t, filepath.Join(r.tokens, "a"), tokenA+"\n")
	write(t, filepath.Join(r.tokens, "b"), tokenB)
	r.source, r.publisher = r.objects, &control.Directory{Dir: r.manifests}
	r.serve(t)
	return r
}

// serve runs control, at the address it had before if it ran already.
func (r *running) serve(t *testing.T) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(r.log, nil))
	authority, err := ca.Open(ca.Config{Dir: r.dir, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	cfg := control.Config{
		Authority: authority, Prover: ca.NewTokenDir(r.tokens, log), Objects: r.source,
		Publisher: r.publisher, Log: log,
	}
	if r.ca.IsValid() {
		if cfg.CA, err = net.Listen("tcp", r.ca.String()); err != nil {
			t.Fatal(err)
		}
	} else {
		cfg.CA, r.ca = listen(t)
	}
	cfg.Metrics, r.metrics = listen(t)
	cfg.Ready, r.ready = listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.Run(ctx, cfg) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("control: %v", err)
		}
	})
	t.Cleanup(r.stop)
}

func listen(t *testing.T) (net.Listener, netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l, netip.MustParseAddrPort(l.Addr().String())
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// node is one ztunnel's view of control: store and CA client, the roots from the published bundle.
type node struct {
	store  *identity.Store
	client *identity.CAClient
	token  atomic.Pointer[string]
}

func (r *running) node(t *testing.T, token string, addrs ...netip.AddrPort) *node {
	t.Helper()
	if len(addrs) == 0 {
		addrs = []netip.AddrPort{r.ca}
	}
	n := &node{}
	n.token.Store(&token)
	roots := identity.NewRoots(func(context.Context) ([]byte, error) { return manifests.ReadBundle(r.manifests) }, nil, slog.New(slog.DiscardHandler))
	var err error
	n.client, err = identity.NewCAClient(identity.CAConfig{
		Dial: func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", a.String())
		},
		Addresses: func() []netip.AddrPort { return addrs },
		Token:     func(context.Context) ([]byte, error) { return []byte(*n.token.Load()), nil },
		Roots:     roots,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.store = identity.New(identity.Config{Fetcher: n.client, Roots: roots})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.store.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := n.client.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func sa(name string) mesh.Identity {
	return mesh.Identity{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: name}
}

// obtain asks for a certificate once and returns why there is none.
func (n *node) obtain(t *testing.T, id mesh.Identity) error {
	t.Helper()
	n.store.Want(id)
	defer n.store.Forget(id)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	got := make(chan error, 1)
	go func() {
		_, err := n.store.ServerConfig(ctx, id)
		got <- err
	}()
	for {
		select {
		case err := <-got:
			return err
		case <-time.After(2 * time.Millisecond):
		}
		for _, c := range n.store.Certificates() {
			if c.Identity == id && c.Error != "" {
				cancel() // it would be tried again until the deadline
				return <-got
			}
		}
	}
}

func get(t *testing.T, a netip.AddrPort, path string) string {
	t.Helper()
	resp, err := http.Get("http://" + a.String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// logBuffer collects log lines of several goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

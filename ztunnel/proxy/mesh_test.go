// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/accesslog"
	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/identity"
	"github.com/warren-mesh/warren/ztunnel/inpod"
	"github.com/warren-mesh/warren/ztunnel/metrics"
	"github.com/warren-mesh/warren/ztunnel/route"
)

// authority signs whatever it is asked to.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
	// roots are what all trust, in place of pem alone.
	roots atomic.Pointer[[]byte]
	next  atomic.Pointer[authority] // answers in its place
	ttl   time.Duration             // of leaves; 0 is an hour
	mute  map[string]bool           // identities that get no answer
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	return &authority{key: key, cert: cert, mute: map[string]bool{}, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) Fetch(ctx context.Context, id mesh.Identity, csrPEM []byte) ([]string, error) {
	if next := a.next.Load(); next != nil {
		a = next
	}
	if a.mute[id.String()] {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	der := csrPEM
	if b, _ := pem.Decode(csrPEM); b != nil {
		der = b.Bytes
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, err
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	tpl := &x509.Certificate{SerialNumber: serial, NotBefore: time.Now().Add(-time.Second), NotAfter: time.Now().Add(cmp.Or(a.ttl, time.Hour)), URIs: csr.URIs,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	leaf, err := x509.CreateCertificate(rand.Reader, tpl, a.cert, csr.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf})), string(a.pem)}, nil
}

func (a *authority) bundle() []byte {
	if b := a.roots.Load(); b != nil {
		return *b
	}
	return a.pem
}

// records collects access log lines.
type records struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(p)
}

// all are the records of connections that ended.
func (r *records) all() []map[string]any {
	return append(r.of("connection complete"), r.of("connection failed")...)
}

func (r *records) of(message string) (out []map[string]any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for line := range bytes.Lines(r.buf.Bytes()) {
		m := map[string]any{}
		if json.Unmarshal(line, &m) == nil && m["message"] == message {
			out = append(out, m)
		}
	}
	return out
}

// node is one ztunnel.
type node struct {
	name    string
	t       *testing.T
	sockets *sockets
	proxy   *Proxy
	ids     *identity.Store
	roots   *identity.Roots
	trusts  atomic.Pointer[[]byte] // in place of what all do
	metrics *metrics.Metrics
	log     records
	stop    context.CancelFunc
	ended   chan struct{}
}

// testMesh is two nodes, near and far, on one network and one snapshot.
type testMesh struct {
	t         *testing.T
	net       *network
	ca        *authority
	store     *mesh.Store
	near, far *node
}

func newMesh(t *testing.T, options ...func(*Config)) *testMesh {
	m := &testMesh{t: t, net: newNetwork(), ca: newAuthority(t), store: mesh.NewStore()}
	m.store.Apply(mesh.PutConfig{Config: &mesh.Config{ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}})
	m.near, m.far = m.node("near", options...), m.node("far", options...)
	return m
}

func (m *testMesh) node(name string, options ...func(*Config)) *node {
	n := &node{name: name, t: m.t, sockets: newSockets(m.net), ended: make(chan struct{})}
	log := slog.New(slog.NewTextHandler(testWriter{m.t}, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", name)
	roots := identity.NewRoots(func(context.Context) ([]byte, error) {
		if b := n.trusts.Load(); b != nil {
			return *b, nil
		}
		return m.ca.bundle(), nil
	}, nil, log)
	n.roots = roots
	n.ids = identity.New(identity.Config{Fetcher: m.ca, Roots: roots, Log: log,
		Own:   func() []string { return m.store.Snapshot().Config().TrustDomainAliases },
		Moved: func(id mesh.Identity) { n.proxy.Moved(id) },
	})
	var err error
	if n.metrics, err = metrics.New(metrics.Config{}); err != nil {
		m.t.Fatal(err)
	}
	al := accesslog.New(&n.log, accesslog.JSON)
	cfg := Config{Store: m.store, Sockets: n.sockets, Identities: n.ids, Metrics: n.metrics, AccessLog: al, Log: log, Node: name,
		Drain: 5 * time.Second, originalDestination: m.net.originalDestination, needWait: 300 * time.Millisecond, ConnectTimeout: 2 * time.Second}
	for _, o := range options {
		o(&cfg)
	}
	n.proxy = New(cfg)
	serving, stop := context.WithCancel(context.Background())
	supply, stopSupply := context.WithCancel(context.Background())
	n.stop = stop
	var wg sync.WaitGroup
	wg.Go(func() { _ = n.ids.Run(supply) })
	wg.Go(func() { _ = al.Run(supply) })
	go func() {
		_ = n.proxy.Run(serving)
		stopSupply()
		wg.Wait()
		close(n.ended)
	}()
	m.t.Cleanup(func() {
		n.proxy.end(&endError{reason: reason.Drained})
		n.stop()
		select {
		case <-n.ended:
		case <-time.After(10 * time.Second):
			m.t.Errorf("ztunnel %s does not end", name)
		}
	})
	return n
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Logf("%s", bytes.TrimSpace(p))
	}
	return len(p), nil
}

// testPod is a captured pod.
type testPod struct {
	m        *testMesh
	node     *node
	uid      string
	addr     netip.Addr
	outbound net.Listener
	workload *mesh.Workload
}

// pod makes a captured pod on a node: known to the snapshot, announced by ZDS, with its listeners.
func (m *testMesh) pod(n *node, name, addr string, change ...func(*mesh.Workload)) *testPod {
	p := &testPod{m: m, node: n, uid: "uid-" + name, addr: netip.MustParseAddr(addr)}
	p.workload = &mesh.Workload{UID: "c//Pod/shop/" + name, PodUID: p.uid, Namespace: "shop", Name: name, ServiceAccount: name, Node: n.name,
		Addresses: []netip.Addr{p.addr}, Capture: mesh.Captured, Ready: true, Services: map[mesh.Name]mesh.EndpointPorts{}}
	for _, c := range change {
		c(p.workload)
	}
	m.store.Apply(mesh.PutWorkload{Workload: p.workload})
	n.sockets.mu.Lock()
	n.sockets.pods[p.uid] = p.addr
	n.sockets.mu.Unlock()
	p.outbound = m.net.listen(m.t, netip.AddrPortFrom(p.addr, 15001))
	plaintext := m.net.listen(m.t, netip.AddrPortFrom(p.addr, 15006))
	tunnels := m.net.listen(m.t, netip.AddrPortFrom(p.addr, 15008))
	m.net.mu.Lock()
	m.net.captured[p.addr] = plaintext
	m.net.mu.Unlock()
	n.proxy.listen(p.uid, inpod.Outbound, podListener{p.outbound, m.net, true})
	n.proxy.listen(p.uid, inpod.Plaintext, podListener{plaintext, m.net, false})
	n.proxy.listen(p.uid, inpod.HBONE, podListener{tunnels, m.net, false})
	n.proxy.Add(p.uid, "shop", name, p.workload.ServiceAccount)
	return p
}

// dial connects as the pod's application does.
func (p *testPod) dial(dst string) *net.TCPConn {
	p.m.t.Helper()
	c, err := p.m.net.connect(p.m.t.Context(), p.outbound, leg{
		local: netip.AddrPortFrom(p.addr, 61000), remote: netip.AddrPortFrom(p.addr, 0), original: netip.MustParseAddrPort(dst)})
	if err != nil {
		p.m.t.Fatal(err)
	}
	p.m.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// stranger connects from an address that no ztunnel serves.
func (m *testMesh) stranger(src, dst string) (*net.TCPConn, error) {
	to := netip.MustParseAddrPort(dst)
	l, _ := m.net.route(to, false)
	c, err := m.net.connect(m.t.Context(), l, leg{local: to, remote: netip.AddrPortFrom(netip.MustParseAddr(src), 0)})
	if err == nil {
		m.t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	}
	return c, err
}

// serve runs an application; f gets each connection and the client's address as the application sees it.
func (m *testMesh) serve(at string, f func(c *net.TCPConn, client netip.AddrPort)) {
	l := m.net.listen(m.t, netip.MustParseAddrPort(at))
	var wg sync.WaitGroup
	m.t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				f(c.(*net.TCPConn), m.net.leg(c).remote)
			})
		}
	})
}

func (m *testMesh) echo(at string) {
	m.serve(at, func(c *net.TCPConn, _ netip.AddrPort) { _, _ = io.Copy(c, c) })
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// logged waits for an access log record with these values.
func (n *node) logged(want map[string]any) map[string]any {
	n.t.Helper()
	var found map[string]any
	defer func() {
		if found == nil {
			for _, r := range n.log.all() {
				n.t.Logf("%s logged %v", n.name, r)
			}
		}
	}()
	eventually(n.t, "a record", func() bool {
	next:
		for _, r := range n.log.all() {
			for k, v := range want {
				if r[k] != v {
					continue next
				}
			}
			found = r
			return true
		}
		return false
	})
	return found
}

// tunnelTo opens an HBONE connection to another pod as this one's ztunnel would, to ask what it never would.
func (p *testPod) tunnelTo(to *testPod) *hbone.ClientConn {
	p.m.t.Helper()
	upstream := netip.AddrPortFrom(to.addr, 15008)
	rc, err := p.node.proxy.dialTunnel(p.m.t.Context(), p.uid, p.workload.Identity(), route.Decision{Upstream: upstream, Expected: []string{to.workload.Identity().String()}})
	if err != nil {
		p.m.t.Fatal(err)
	}
	c, err := hbone.NewClient(p.m.t.Context(), rc, hbone.Config{})
	if err != nil {
		p.m.t.Fatal(err)
	}
	p.m.t.Cleanup(func() { c.Close() })
	return c
}

// wantReset reads until the connection ends and fails unless it ends with a reset.
func wantReset(t *testing.T, what string, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: read ended with %v, want ECONNRESET", what, err)
	}
}

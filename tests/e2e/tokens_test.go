// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	security "istio.io/api/security/v1alpha1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/warren-mesh/warren/tests/forge"
)

// audience is the one that control takes tokens for.
const audience = "warren-ca"

// authority is control as whoever asks it for certificates sees it.
type authority struct {
	t       *testing.T
	mesh    *Mesh
	trusted *x509.CertPool
	pods    []corev1.Pod // the replicas
}

func newAuthority(t *testing.T, m *Mesh) *authority {
	t.Helper()
	roots, err := m.Client().CoreV1().ConfigMaps(system).Get(t.Context(), "warren-ca-root", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, mesh: m, trusted: x509.NewCertPool(), pods: m.Control(t).Pods()}
	if !a.trusted.AppendCertsFromPEM([]byte(roots.Data["root-cert.pem"])) {
		t.Fatal("no roots in ConfigMap warren-ca-root")
	}
	if len(a.pods) != 2 {
		t.Fatalf("%d replicas of control, want 2", len(a.pods))
	}
	return a
}

// asking is one request for a certificate.
type asking struct {
	from    string // the network namespace it comes from, as a file
	replica int
	token   string
	id      string
	creds   credentials.TransportCredentials // default: TLS that trusts the mesh
}

// ask returns the certificate that is given.
func (a *authority) ask(r asking) (*x509.Certificate, error) {
	a.t.Helper()
	if r.creds == nil {
		// Who is behind the address is proved by the mesh's roots; the name is in no client's way.
		r.creds = credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, VerifyConnection: a.verify})
	}
	addr := net.JoinHostPort(a.pods[r.replica].Status.PodIP, "15012")
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(r.creds), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return dialIn(ctx, r.from, "tcp", addr) }))
	if err != nil {
		a.t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(a.t.Context(), 10*time.Second)
	defer cancel()
	if r.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+r.token)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, forge.Key(a.t))
	if err != nil {
		a.t.Fatal(err)
	}
	got, err := security.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, &security.IstioCertificateRequest{
		Csr:      string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"ImpersonatedIdentity": structpb.NewStringValue(r.id)}},
	})
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(got.CertChain[0]))
	return x509.ParseCertificate(block.Bytes)
}

func (a *authority) verify(s tls.ConnectionState) error {
	between := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: a.trusted, Intermediates: between})
	return err
}

// network is that of a node, or of a pod.
func (m *Mesh) network(t *testing.T, node string) string {
	t.Helper()
	pid, err := m.PID(node)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("/proc/%d/ns/net", pid)
}

func (p *Pod) network() string {
	p.t.Helper()
	main, err := p.process()
	if err != nil {
		p.t.Fatal(err)
	}
	return fmt.Sprintf("/proc/%d/ns/net", main.PID)
}

// token is what the API server makes for a service account: for an audience ("": its own), bound to an object or to none.
func (m *Mesh) token(t *testing.T, namespace, account, audience string, bound *authenticationv1.BoundObjectReference) string {
	t.Helper()
	r := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound}}
	if audience != "" {
		r.Spec.Audiences = []string{audience}
	}
	r, err := m.Client().CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account, r, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.Token
}

func toPod(p corev1.Pod) *authenticationv1.BoundObjectReference {
	return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID}
}

func (p *Pod) bound() *authenticationv1.BoundObjectReference {
	o := corev1.Pod{}
	o.Name, o.UID = p.Name, types.UID(p.UID)
	return toPod(o)
}

// altered changes a token's claims and signs it with the API server's key, or another.
func altered(t *testing.T, key *ecdsa.PrivateKey, token string, change func(claims map[string]any)) string {
	t.Helper()
	parts := strings.Split(token, ".")
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(b, &claims); err != nil {
		t.Fatal(err)
	}
	change(claims)
	if b, err = json.Marshal(claims); err != nil {
		t.Fatal(err)
	}
	signed := parts[0] + "." + base64.RawURLEncoding.EncodeToString(b)
	sum := sha256.Sum256([]byte(signed))
	r, v, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := append(r.FillBytes(make([]byte, 32)), v.FillBytes(make([]byte, 32))...) // ES256 (RFC 7518, 3.4)
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// tokenKey is the key that the API server signs tokens with.
func tokenKey(t *testing.T, m *Mesh) *ecdsa.PrivateKey {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(filepath.Dir(m.Kubeconfig()), "service-accounts.key"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestWhoGetsCertificates asks both replicas of control with every kind of token, from everywhere.
func TestWhoGetsCertificates(t *testing.T) {
	m := Shared(t)
	ns, outside := m.Namespace(t, "tokens", Enrolled()), m.Namespace(t, "tokens-outside")
	n := m.Nodes()
	pods := ns.Deploy(App{Name: "here", Node: n[0]}, App{Name: "there", Node: n[1]}, App{Name: "left", Node: n[0], Enrol: "disabled"})
	here, there, left := pods[0], pods[1], pods[2]
	stranger := outside.Deploy(App{Name: "stranger", Node: n[0], Account: nodeName})[0] // named as the nodes' account
	ordinary := outside.Deploy(App{Name: "ordinary", Node: n[0]})[0]
	ca := newAuthority(t, m)
	hostA, hostB := m.network(t, n[0]), m.network(t, n[1])
	agent := m.Agent(t, n[0]).Pods()[0]
	node := m.token(t, system, nodeName, audience, toPod(agent))
	key := tokenKey(t, m)
	in := func(change func(map[string]any)) string { return altered(t, key, node, change) }
	same := func(map[string]any) {}
	type row struct {
		name   string
		from   string
		token  string
		id     string
		code   codes.Code
		reason string // in the caller's answer
		log    string // in control's
	}
	const (
		unproven = "NODE_UNPROVEN"
		notThere = "NOT_ON_NODE"
	)
	rows := []row{
		{"the node's, a pod of its own", hostA, node, here.Identity(), codes.OK, "", ""},
		{"the node's, made again", hostA, in(same), here.Identity(), codes.OK, "", ""},
		{"the node's, a pod of another node", hostA, node, there.Identity(), codes.PermissionDenied, notThere, "no enrolled pod of that service account"},
		{"the node's, a pod outside the mesh", hostA, node, left.Identity(), codes.PermissionDenied, notThere, "no enrolled pod of that service account"},
		{"the node's, control's identity", hostA, node, "spiffe://" + trustDomain + "/ns/" + system + "/sa/" + controlName, codes.PermissionDenied, notThere, "no enrolled pod"},
		{"the node's, another mesh's", hostA, node, "spiffe://elsewhere/ns/" + ns.Name + "/sa/here", codes.PermissionDenied, "FOREIGN_TRUST_DOMAIN", ""},
		{"the node's, taken to another node: still its own pods", hostB, node, here.Identity(), codes.OK, "", ""},
		{"the node's, taken to another node: not that one's", hostB, node, there.Identity(), codes.PermissionDenied, notThere, "node=" + n[0]},
		{"the node's, for the API server", hostA, m.token(t, system, nodeName, "", toPod(agent)), here.Identity(), codes.Unauthenticated, unproven, "token is for audience"},
		{"the node's account, bound to nothing", hostA, m.token(t, system, nodeName, audience, nil), here.Identity(), codes.Unauthenticated, unproven, "bound to no pod"},
		{"expired", hostA, in(func(c map[string]any) { c["exp"] = time.Now().Add(-time.Minute).Unix() }), here.Identity(), codes.Unauthenticated, unproven, "token has expired"},
		{"never expires", hostA, in(func(c map[string]any) { delete(c, "exp") }), here.Identity(), codes.Unauthenticated, unproven, "never expires"},
		{"not valid yet", hostA, in(func(c map[string]any) { c["nbf"] = time.Now().Add(time.Hour).Unix() }), here.Identity(), codes.Unauthenticated, unproven, "not valid yet"},
		{"another issuer's, by the API server's key", hostA, in(func(c map[string]any) { c["iss"] = "https://elsewhere" }), here.Identity(), codes.Unauthenticated, unproven, "the API server does not take the token"},
		{"another key's", hostA, altered(t, forge.Key(t), node, same), here.Identity(), codes.Unauthenticated, unproven, "signature is wrong"},
		{"no token", hostA, "", here.Identity(), codes.Unauthenticated, unproven, "not a service account token"},
		{"no JWT", hostA, "x.y.z", here.Identity(), codes.Unauthenticated, unproven, "not a service account token"},
		{"control's own, for us", hostA, m.token(t, system, controlName, audience, toPod(ca.pods[0])), here.Identity(), codes.Unauthenticated, unproven, controlName},
		{"an ordinary pod's", ordinary.network(), m.token(t, outside.Name, ordinary.Account, "", ordinary.bound()), ordinary.Identity(), codes.Unauthenticated, unproven, "token is of"},
		{"an ordinary pod's, for us", ordinary.network(), m.token(t, outside.Name, ordinary.Account, audience, ordinary.bound()), ordinary.Identity(), codes.Unauthenticated, unproven, "token is of"},
		{"a mesh pod's own, for its own identity", ordinary.network(), m.token(t, ns.Name, here.Account, audience, here.bound()), here.Identity(), codes.Unauthenticated, unproven, "token is of"},
		{"the account's name in another namespace", stranger.network(), m.token(t, outside.Name, nodeName, audience, stranger.bound()), here.Identity(), codes.Unauthenticated, unproven, "token is of"},
		{"a deleted pod's", hostA, deletedPodsToken(t, m, n[0]), here.Identity(), codes.Unauthenticated, unproven, "the API server does not take the token"},
	}
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			for replica := range ca.pods {
				since := time.Now()
				c := *ca
				c.t = t
				got, err := c.ask(asking{from: tt.from, replica: replica, token: tt.token, id: tt.id})
				switch {
				case status.Code(err) != tt.code || tt.reason != "" && !strings.Contains(err.Error(), tt.reason):
					t.Errorf("replica %d: got %v, want %v %s", replica, err, tt.code, tt.reason)
				case err == nil && (len(got.URIs) != 1 || got.URIs[0].String() != tt.id):
					t.Errorf("replica %d: got a certificate of %v, want %s", replica, got.URIs, tt.id)
				}
				if tt.log != "" {
					m.Control(t).waitSaid(since, "certificate refused", tt.log)
				}
			}
		})
	}
	t.Run("without TLS", func(t *testing.T) {
		c := *ca
		c.t = t
		if _, err := c.ask(asking{from: hostA, token: node, id: here.Identity(), creds: insecure.NewCredentials()}); status.Code(err) != codes.Unavailable {
			t.Errorf("got %v, want no answer", err)
		}
	})
	t.Run("by another authority", func(t *testing.T) {
		c := *ca
		c.t, c.trusted = t, x509.NewCertPool()
		if _, err := c.ask(asking{from: hostA, token: node, id: here.Identity()}); err == nil || !strings.Contains(err.Error(), "unknown authority") {
			t.Errorf("got %v, want that control is not trusted", err)
		}
	})
}

// waitSaid waits for a line of the log with all the parts. Such lines are bounded per reason; a refusal is then in the
// metric alone.
func (p *Part) waitSaid(since time.Time, parts ...string) {
	p.t.Helper()
	Eventually(p.t, told, "control's log says why", func() string {
		for line := range strings.Lines(p.LogSince(since)) {
			if !slices.ContainsFunc(parts, func(s string) bool { return !strings.Contains(line, s) }) {
				return ""
			}
		}
		return fmt.Sprintf("no line with %q", parts)
	})
}

// deletedPodsToken is a token of a pod of the nodes' account that is gone.
func deletedPodsToken(t *testing.T, m *Mesh, node string) string {
	t.Helper()
	pods := m.Client().CoreV1().Pods(system)
	p, err := pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "tokens-"}, Spec: corev1.PodSpec{
		NodeName: node, ServiceAccountName: nodeName, Containers: []corev1.Container{{Name: "app", Image: m.App, ImagePullPolicy: corev1.PullNever, Args: []string{"serve", "echo=:7000"}}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token := m.token(t, system, nodeName, audience, toPod(*p))
	now := int64(0)
	if err := pods.Delete(t.Context(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	return token
}

// TestEveryReplicaSigns takes the lease away from the replica that writes: both sign on, and none writes.
func TestEveryReplicaSigns(t *testing.T) {
	m := Shared(t)
	ns := m.Namespace(t, "lease", Enrolled())
	pod := ns.Deploy(App{Name: "app", Node: m.Nodes()[0]})[0]
	ca := newAuthority(t, m)
	host, node := m.network(t, pod.Node), m.token(t, system, nodeName, audience, toPod(m.Agent(t, pod.Node).Pods()[0]))
	sign := func(when string) {
		t.Helper()
		for replica := range ca.pods {
			if _, err := ca.ask(asking{from: host, replica: replica, token: node, id: pod.Identity()}); err != nil {
				t.Errorf("%s, replica %d: %v", when, replica, err)
			}
		}
	}
	writers := func() (n int) {
		for _, p := range ca.pods {
			page, err := getFrom(t.Context(), m.network(t, pod.Node), "http://"+net.JoinHostPort(p.Status.PodIP, "15020")+"/metrics")
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(page, "\nwarren_control_writes 1\n") {
				n++
			}
		}
		return n
	}
	waitWriters := func(want int, within time.Duration) {
		t.Helper()
		Eventually(t, within, fmt.Sprintf("%d replicas write", want), func() string {
			if got := writers(); got != want {
				return fmt.Sprint(got, " do")
			}
			return ""
		})
	}
	waitWriters(1, 30*time.Second)
	sign("before")
	pids := m.Control(t).PIDs()
	patch := fmt.Sprintf(`{"spec":{"holderIdentity":"nobody","leaseDurationSeconds":15,"renewTime":%q}}`, time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"))
	if _, err := m.Client().CoordinationV1().Leases(system).Patch(t.Context(), controlName, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	waitWriters(0, 20*time.Second)
	sign("without a writer")
	waitWriters(1, 40*time.Second)
	sign("afterwards")
	if now := m.Control(t).PIDs(); !slices.Equal(now, pids) {
		t.Errorf("processes were %v, and are %v: a lost lease ends none", pids, now)
	}
}

// TestAccountsMayLittle asks the API server what Warren's service accounts may, with their tokens.
func TestAccountsMayLittle(t *testing.T) {
	m := Shared(t)
	const no, yes = false, true
	for account, pods := range map[string][]corev1.Pod{nodeName: m.Agent(t, m.Nodes()[0]).Pods(), controlName: m.Control(t).Pods()} {
		c := tokenClient(t, m, m.token(t, system, account, "", toPod(pods[0])))
		for _, tt := range []struct {
			verb, group, resource, namespace, name string
			node, control                          bool
		}{
			{"list", "", "pods", "", "", yes, yes},
			{"watch", "", "pods", "", "", yes, yes},
			{"list", "", "namespaces", "", "", yes, yes},
			{"patch", "", "pods", "default", "", yes, no},
			{"create", "", "events", "default", "", yes, yes},
			{"create", "authentication.k8s.io", "tokenreviews", "", "", no, yes},
			{"get", "", "secrets", system, "warren-ca", no, yes},
			{"get", "", "secrets", system, "another", no, no},
			{"list", "", "secrets", "", "", no, no},
			{"watch", "", "secrets", system, "", no, no},
			{"get", "", "secrets", "kube-system", "warren-ca", no, no},
			{"create", "", "pods", system, "", no, no},
			{"create", "", "pods", "default", "", no, no},
			{"update", "", "pods", "default", "", no, no},
			{"delete", "", "pods", "default", "", no, no},
			{"patch", "", "pods/status", "default", "", no, no},
			{"update", "", "pods/ephemeralcontainers", "default", "", no, no},
			{"create", "", "pods/exec", "default", "", no, no},
			{"create", "", "pods/eviction", "default", "", no, no},
			{"create", "", "pods/binding", "default", "", no, no},
			{"create", "", "serviceaccounts/token", system, nodeName, no, no},
			{"impersonate", "", "users", "", "", no, no},
			{"impersonate", "", "serviceaccounts", system, "", no, no},
			{"patch", "", "nodes", "", "", no, no},
			{"get", "", "nodes/proxy", "", "", no, no},
			{"patch", "", "namespaces", "", "", no, no},
			{"create", "", "configmaps", "default", "", no, yes},
			{"update", "", "configmaps", "default", "warren-ca-root", no, yes},
			{"update", "", "configmaps", "kube-system", "coredns", no, no},
			{"list", "", "configmaps", "", "", no, no},
			{"update", "coordination.k8s.io", "leases", system, controlName, no, yes},
			{"update", "coordination.k8s.io", "leases", "kube-node-lease", "n1", no, no},
			{"create", "", "services", "default", "", no, no},
			{"create", "apps", "daemonsets", system, "", no, no},
			{"update", "rbac.authorization.k8s.io", "clusterroles", "", nodeName, no, no},
			{"escalate", "rbac.authorization.k8s.io", "clusterroles", "", "", no, no},
			{"bind", "rbac.authorization.k8s.io", "clusterroles", "", "cluster-admin", no, no},
			{"create", "certificates.k8s.io", "certificatesigningrequests", "", "", no, no},
			{"delete", "admissionregistration.k8s.io", "validatingadmissionpolicies", "", "", no, no},
			{"update", "security.istio.io", "peerauthentications", "default", "", no, no},
			{"update", "warren.dev", "meshconfigs", "", "default", no, no},
			{"update", "warren.dev", "meshconfigs/status", "", "default", no, yes},
		} {
			resource, sub, _ := strings.Cut(tt.resource, "/")
			r, err := c.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
				Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
					Verb: tt.verb, Group: tt.group, Resource: resource, Subresource: sub, Namespace: tt.namespace, Name: tt.name}},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			want := tt.node
			if account == controlName {
				want = tt.control
			}
			if r.Status.Allowed != want {
				t.Errorf("%s may %s %s %s/%s: %v, want %v", account, tt.verb, tt.resource, tt.namespace, tt.name, r.Status.Allowed, want)
			}
		}
		// And for real, where the answer would be a catch.
		if l, err := c.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{}); err == nil {
			t.Errorf("%s read %d Secrets", account, len(l.Items))
		}
		if _, err := c.CoreV1().ServiceAccounts(system).CreateToken(t.Context(), controlName, &authenticationv1.TokenRequest{}, metav1.CreateOptions{}); err == nil {
			t.Errorf("%s made itself control's token", account)
		}
		if _, err := c.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "x-"},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "x", Image: "x"}}}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err == nil {
			t.Errorf("%s makes pods", account)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/warren-mesh/warren/mesh"
)

func prove(t *testing.T, w *world, token, node, refusal string) {
	t.Helper()
	got, err := w.prover.Prove(t.Context(), token)
	switch {
	case refusal == "" && (err != nil || got != node):
		t.Errorf("proved %q, %v; want %q", got, err, node)
	case refusal != "" && (err == nil || got != "" || !strings.Contains(err.Error(), refusal)):
		t.Errorf("proved %q, %v; want a refusal with %q", got, err, refusal)
	}
}

func kubernetes(c map[string]any) map[string]any { return c["kubernetes.io"].(map[string]any) }

func TestProveByReview(t *testing.T) {
	w := newWorld(t, rsaSigner())
	token := w.signer.sign(t, nodeClaims("a", nil))
	prove(t, w, token, "a", "")
	prove(t, w, token, "a", "")
	if w.counted() != 1 {
		t.Errorf("%d reviews, want one that is remembered", w.counted())
	}
	w.pass(provenFor + time.Second)
	prove(t, w, token, "a", "")
	if w.counted() != 2 {
		t.Errorf("%d reviews, want another after a minute", w.counted())
	}
}

// A node that starts asks for all its pods at once.
func TestManyAtOnceAreOneReview(t *testing.T) {
	w := newWorld(t, rsaSigner())
	token := w.signer.sign(t, nodeClaims("a", nil))
	gate := make(chan struct{})
	status := w.status
	w.status = func(token string) authenticationv1.TokenReviewStatus { <-gate; return status(token) }
	var all errgroup.Group
	for range 50 {
		all.Go(func() error {
			node, err := w.prover.Prove(t.Context(), token)
			if err == nil && node != "a" {
				err = errors.New("proved " + node)
			}
			return err
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.prover.Prove(ctx, token); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that went: %v", err)
	}
	close(gate)
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
	if n := w.counted(); n != 1 {
		t.Errorf("%d reviews", n)
	}
}

// What is wrong by itself, or signed by nobody the cluster knows, costs the API server no review.
func TestStrangersCostNoReview(t *testing.T) {
	w := newWorld(t, rsaSigner())
	if _, err := w.prover.issuer.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	stranger := ecSigner(t)
	good := w.signer.sign(t, nodeClaims("a", nil))
	for _, tt := range []struct{ name, token, refusal string }{
		{"nothing", "", "not a service account token"},
		{"no token", "token-of-node-a-0123456789", "not a service account token"},
		{"a very long one", strings.Repeat("x", maxToken+1), "not a service account token"},
		{"an ordinary pod's", w.signer.sign(t, nodeClaims("a", func(c map[string]any) { c["sub"] = "system:serviceaccount:shop:cart" })), `of "system:serviceaccount:shop:cart"`},
		{"for the API server", w.signer.sign(t, nodeClaims("a", func(c map[string]any) { c["aud"] = issuerName })), "audience"},
		{"bound to no pod", w.signer.sign(t, nodeClaims("a", func(c map[string]any) { delete(kubernetes(c), "pod") })), "no pod"},
		{"expired", w.signer.sign(t, nodeClaims("a", func(c map[string]any) { c["exp"] = time.Now().Add(-time.Minute).Unix() })), "expired"},
		{"for ever", w.signer.sign(t, nodeClaims("a", func(c map[string]any) { delete(c, "exp") })), "never expires"},
		{"not yet", w.signer.sign(t, nodeClaims("a", func(c map[string]any) { c["nbf"] = time.Now().Add(time.Minute).Unix() })), "not valid yet"},
		{"another issuer's", stranger.sign(t, nodeClaims("a", func(c map[string]any) { c["iss"] = "https://elsewhere" })), "does not publish"},
		{"a stranger's", stranger.sign(t, nodeClaims("a", nil)), "does not publish"},
		{"a stranger's under our key's name", (&signer{kid: "rsa", key: stranger.key}).sign(t, nodeClaims("a", nil)), "signature"},
		{"changed", good[:len(good)-8] + "AAAAAAAA", "signature"},
	} {
		t.Run(tt.name, func(t *testing.T) { prove(t, w, tt.token, "", tt.refusal) })
	}
	if w.counted() != 0 {
		t.Errorf("%d reviews", w.counted())
	}
}

func TestTheReviewDecides(t *testing.T) {
	for _, tt := range []struct {
		name, refusal string
		change        func(*authenticationv1.TokenReviewStatus)
	}{
		{"its pod is gone", "does not take", func(s *authenticationv1.TokenReviewStatus) { s.Authenticated = false; s.Error = "pod is gone" }},
		{"for another audience", "audience", func(s *authenticationv1.TokenReviewStatus) { s.Audiences = []string{"api"} }},
		{"of another", "token is of", func(s *authenticationv1.TokenReviewStatus) {
			s.User.Username = "system:serviceaccount:shop:cart"
		}},
		{"of another pod", "no pod", func(s *authenticationv1.TokenReviewStatus) {
			s.User.Extra[extraPodUID] = authenticationv1.ExtraValue{"uid-b"}
		}},
		{"on another node than its pod", "its pod is on", func(s *authenticationv1.TokenReviewStatus) {
			s.User.Extra[extraNode] = authenticationv1.ExtraValue{"b"}
		}},
		{"without a node: its pod's", "", func(s *authenticationv1.TokenReviewStatus) { delete(s.User.Extra, extraNode) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, rsaSigner())
			status := w.status
			w.status = func(token string) authenticationv1.TokenReviewStatus {
				s := status(token)
				tt.change(&s)
				return s
			}
			token := w.signer.sign(t, nodeClaims("a", nil))
			prove(t, w, token, "a", tt.refusal)
			prove(t, w, token, "a", tt.refusal)
			if w.counted() != 1 {
				t.Errorf("%d reviews, want one that is remembered", w.counted())
			}
		})
	}
}

func TestWhileTheAPIServerIsAway(t *testing.T) {
	for _, s := range []*signer{rsaSigner(), ecSigner(t)} {
		t.Run(s.kid, func(t *testing.T) {
			w := newWorld(t, s)
			if _, err := w.prover.issuer.refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.Down()
			prove(t, w, s.sign(t, nodeClaims("a", nil)), "a", "")
			for _, tt := range []struct {
				name, refusal string
				change        func(map[string]any)
			}{
				{"a pod that is not known", "is not known", func(c map[string]any) {
					kubernetes(c)["pod"] = map[string]any{"name": "warren-node-a", "uid": "uid-new"}
				}},
				{"a known pod's uid under another name", "is not known", func(c map[string]any) {
					kubernetes(c)["pod"] = map[string]any{"name": "warren-node-b", "uid": "uid-a"}
				}},
				{"another node than the pod's", "its pod is on", func(c map[string]any) { kubernetes(c)["node"] = map[string]any{"name": "b"} }},
				{"expired", "expired", func(c map[string]any) { c["exp"] = time.Now().Add(-time.Minute).Unix() }},
			} {
				t.Run(tt.name, func(t *testing.T) { prove(t, w, s.sign(t, nodeClaims("a", tt.change)), "", tt.refusal) })
			}
			prove(t, w, (&signer{kid: s.kid, key: ecSigner(t).key}).sign(t, nodeClaims("a", nil)), "", "signature")
		})
	}
}

// While one issuer's name follows another's, an API server takes tokens of both, and tells of one.
func TestTokensOfTheIssuerBefore(t *testing.T) {
	w := newWorld(t, rsaSigner())
	if _, err := w.prover.issuer.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := func(c map[string]any) { c["iss"] = "https://issuer.before" }
	prove(t, w, w.signer.sign(t, nodeClaims("a", old)), "a", "")
	if w.counted() != 1 {
		t.Errorf("%d reviews, want one: the API server alone can tell", w.counted())
	}
	w.Down()
	token := w.signer.sign(t, nodeClaims("b", old))
	prove(t, w, token, "", `issued by "https://issuer.before"`)
	w.Up()
	w.pass(awayFor + time.Second)
	prove(t, w, token, "b", "")
}

func TestEveryAlgorithm(t *testing.T) {
	key := rsaSigner().key
	for _, s := range []*signer{
		{kid: "k", key: key, alg: "RS256"}, {kid: "k", key: key, alg: "RS384"}, {kid: "k", key: key, alg: "RS512"},
		{kid: "k", key: key, alg: "PS256"}, {kid: "k", key: key, alg: "PS384"}, {kid: "k", key: key, alg: "PS512"},
		ecSignerOn(t, elliptic.P256()), ecSignerOn(t, elliptic.P384()), ecSignerOn(t, elliptic.P521()),
	} {
		t.Run(s.algorithm(), func(t *testing.T) {
			w := newWorld(t, s)
			if _, err := w.prover.issuer.refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			other := *s
			other.alg = map[bool]string{true: "RS256", false: "RS512"}[s.algorithm() == "RS512"]
			if _, ec := s.key.(*ecdsa.PrivateKey); ec { // signed right, by an algorithm of another curve
				other.alg = map[bool]string{true: "ES256", false: "ES384"}[s.algorithm() == "ES384"]
			}
			right := s.sign(t, nodeClaims("a", nil))
			header := strings.Split(other.sign(t, nodeClaims("a", nil)), ".")[0]
			for name, token := range map[string]string{
				"changed":                      right[:len(right)-8] + "AAAAAAAA",
				"under another algorithm":      header + right[strings.Index(right, "."):],
				"no signature":                 right[:strings.LastIndex(right, ".")+1],
				"no algorithm":                 (&signer{kid: s.kid, key: s.key, alg: s.algorithm()}).unsigned(t, "none"),
				"a signature of no public key": (&signer{kid: s.kid, key: s.key, alg: s.algorithm()}).unsigned(t, "HS256"),
			} {
				t.Run(name, func(t *testing.T) { prove(t, w, token, "", "signature") })
			}
			if _, ec := s.key.(*ecdsa.PrivateKey); ec {
				prove(t, w, other.sign(t, nodeClaims("a", nil)), "", "signature")
			}
			if w.counted() != 0 {
				t.Errorf("%d reviews", w.counted())
			}
			w.Down()
			prove(t, w, right, "a", "")
		})
	}
}

// unsigned is a token whose header names an algorithm, with a signature that is none.
func (s *signer) unsigned(t *testing.T, alg string) string {
	t.Helper()
	parts := strings.Split(s.sign(t, nodeClaims("a", nil)), ".")
	return b64([]byte(`{"alg":"`+alg+`","kid":"`+s.kid+`"}`)) + "." + parts[1] + "." + parts[2]
}

// Of a key that can't be used here the API server alone can tell what it signed.
func TestKeysThatCanNotBeUsed(t *testing.T) {
	small := *rsaSigner().key.(*rsa.PrivateKey)
	for name, jwk := range map[string]map[string]string{
		"another kind of key": {"kty": "OKP", "crv": "Ed25519", "use": "sig", "x": "AAAA"},
		"another curve":       {"kty": "EC", "crv": "secp256k1", "use": "sig", "x": "AAAA", "y": "AAAA"},
		"a short key":         {"kty": "RSA", "use": "sig", "n": b64(small.N.Bytes()[:128]), "e": "AQAB"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rsaSigner())
			jwk["kid"] = "unread"
			w.further = append(w.further, jwk)
			if _, err := w.prover.issuer.refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := w.prover.issuer.unread(); err == nil || !strings.Contains(err.Error(), "signed by unread ") {
				t.Errorf("it is told %v", err)
			}
			theirs := &signer{kid: "unread", key: ecSigner(t).key}
			prove(t, w, ecSigner(t).sign(t, nodeClaims("a", nil)), "", "does not publish")
			prove(t, w, theirs.sign(t, nodeClaims("a", nil)), "a", "")
			if w.counted() != 1 {
				t.Errorf("%d reviews, want one", w.counted())
			}
			w.Down()
			prove(t, w, theirs.sign(t, nodeClaims("b", nil)), "", "can't be checked here")
			prove(t, w, w.signer.sign(t, nodeClaims("b", nil)), "b", "")
		})
	}
}

// lines are a log's.
type lines chan string

func (l lines) Write(p []byte) (int, error) { l <- string(p); return len(p), nil }

func TestKeysThatCanNotBeUsedAreLogged(t *testing.T) {
	w := newWorld(t, rsaSigner())
	w.further = []map[string]string{{"kty": "OKP", "kid": "unread"}}
	log := make(lines, 8)
	w.prover.cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.prover.Run(ctx) }()
	select {
	case line := <-log:
		if !strings.Contains(line, "signed by unread ") {
			t.Error(line)
		}
	case <-time.After(10 * time.Second):
		t.Error("nothing is logged")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAwayWithoutKeysProvesNothing(t *testing.T) {
	w := newWorld(t, rsaSigner())
	w.Down()
	prove(t, w, w.signer.sign(t, nodeClaims("a", nil)), "", "never read")
}

func TestBusyIsAwayAndForbiddenIsNot(t *testing.T) {
	w := newWorld(t, rsaSigner())
	if _, err := w.prover.issuer.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	token := w.signer.sign(t, nodeClaims("a", nil))
	w.code = http.StatusForbidden
	prove(t, w, token, "", "review token")
	w.code = http.StatusServiceUnavailable
	prove(t, w, token, "a", "")
	w.code = 0
	w.pass(awayFor + provenFor + time.Second)
	before := w.counted()
	prove(t, w, token, "a", "")
	if w.counted() != before+1 {
		t.Error("the API server was not asked again")
	}
}

// A pod the mesh has not seen yet is proved by the review alone.
func TestANewPod(t *testing.T) {
	w := newWorld(t, rsaSigner())
	w.store.Apply(mesh.DeleteWorkload{UID: "Kubernetes//Pod/warren-system/warren-node-a"})
	prove(t, w, w.signer.sign(t, nodeClaims("a", nil)), "a", "")
}

func TestRotatedKeysAreRead(t *testing.T) {
	w := newWorld(t, rsaSigner())
	if _, err := w.prover.issuer.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := ecSigner(t)
	w.mu.Lock()
	w.signer = next
	w.mu.Unlock()
	w.pass(keysRetry + time.Second)
	prove(t, w, next.sign(t, nodeClaims("a", nil)), "a", "")
	if w.counted() != 1 {
		t.Errorf("%d reviews", w.counted())
	}
}

func FuzzParse(f *testing.F) {
	f.Add("a.b.c", []byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}`))
	f.Add("eyJhbGciOiJFUzI1NiJ9.eyJhdWQiOiJhIn0.AAAA", []byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Fuzz(func(t *testing.T, token string, set []byte) {
		keys, err := parseJWKS(set)
		if err == nil && len(keys) == 0 {
			t.Error("no keys, and no error")
		}
		j, err := parseJWT(token)
		if err != nil {
			return
		}
		if j.verify(keys) == nil {
			t.Error("a made-up token is right")
		}
		_ = j.claims.current(time.Now())
	})
}

// A pod that is being scheduled proves no node, and is not remembered as proving none.
func TestAPodThatIsOnNoNodeYet(t *testing.T) {
	w := newWorld(t, rsaSigner())
	store := mesh.NewStore()
	store.Apply(mesh.PutWorkload{Workload: &mesh.Workload{UID: "x", PodUID: "new", Namespace: "warren-system", Name: "warren-node-new"}})
	w.prover.cfg.Snapshot = store.Snapshot
	if node, err := w.prover.nodeOf("new", ""); err == nil || !isPassing(err) {
		t.Errorf("proved %q, %v", node, err)
	}
	if node, err := w.prover.nodeOf("new", "a"); err != nil || node != "a" {
		t.Errorf("proved %q, %v, though the token names a node", node, err)
	}
}

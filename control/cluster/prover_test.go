// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
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
		{"another issuer's", w.signer.sign(t, nodeClaims("a", func(c map[string]any) { c["iss"] = "https://elsewhere" })), "issued by"},
		{"a stranger's", stranger.sign(t, nodeClaims("a", nil)), "does not publish"},
		{"a stranger's under our key's name", (&signer{"rsa", stranger.key}).sign(t, nodeClaims("a", nil)), "signature"},
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
			prove(t, w, (&signer{s.kid, ecSigner(t).key}).sign(t, nodeClaims("a", nil)), "", "signature")
		})
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

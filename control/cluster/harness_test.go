// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube/apiserver"
	"github.com/warren-mesh/warren/tests/kubeapi"
)

var discard = slog.New(slog.DiscardHandler)

// signer signs tokens as an API server does.
type signer struct {
	kid string
	key crypto.Signer
	alg string // "": the one API servers use with such a key
}

var rsaSigner = sync.OnceValue(func() *signer {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return &signer{kid: "rsa", key: k}
})

func ecSigner(t *testing.T) *signer { return ecSignerOn(t, elliptic.P256()) }

func ecSignerOn(t *testing.T, curve elliptic.Curve) *signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{kid: "ec", key: k}
}

func (s *signer) algorithm() string {
	k, ec := s.key.(*ecdsa.PrivateKey)
	switch {
	case s.alg != "":
		return s.alg
	case ec:
		return map[string]string{"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}[k.Params().Name]
	}
	return "RS256"
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (s *signer) jwk() map[string]string {
	switch k := s.key.(type) {
	case *rsa.PrivateKey:
		return map[string]string{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": s.kid, "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())}
	case *ecdsa.PrivateKey:
		point, _ := k.PublicKey.Bytes()
		x, y := point[1:1+len(point)/2], point[1+len(point)/2:]
		return map[string]string{"kty": "EC", "use": "sig", "alg": s.algorithm(), "crv": k.Params().Name, "kid": s.kid, "x": b64(x), "y": b64(y)}
	}
	return nil
}

func (s *signer) sign(t *testing.T, claims map[string]any) string {
	t.Helper()
	h, err := json.Marshal(map[string]string{"alg": s.algorithm(), "kid": s.kid})
	if err != nil {
		t.Fatal(err)
	}
	c, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed := b64(h) + "." + b64(c)
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[s.algorithm()[2:]]
	digest := hash.New()
	digest.Write([]byte(signed))
	sum := digest.Sum(nil)
	var sig []byte
	switch k := s.key.(type) {
	case *rsa.PrivateKey:
		if s.algorithm()[:2] == "PS" {
			sig, err = rsa.SignPSS(rand.Reader, k, hash, sum, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			sig, err = rsa.SignPKCS1v15(rand.Reader, k, hash, sum)
		}
	case *ecdsa.PrivateKey:
		half := (k.Params().BitSize + 7) / 8
		var r, v *big.Int
		r, v, err = ecdsa.Sign(rand.Reader, k, sum)
		sig = append(r.FillBytes(make([]byte, half)), v.FillBytes(make([]byte, half))...)
	}
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + b64(sig)
}

const issuerName = "https://kubernetes.default.svc.cluster.local"

// nodeClaims are those of the Warren pod on a node; change makes them something else.
func nodeClaims(node string, change func(map[string]any)) map[string]any {
	c := map[string]any{
		"iss": issuerName, "sub": "system:serviceaccount:warren-system:warren-node", "aud": []string{Audience},
		"exp": time.Now().Add(time.Hour).Unix(), "nbf": time.Now().Unix(),
		"kubernetes.io": map[string]any{
			"namespace": "warren-system",
			"pod":       map[string]any{"name": "warren-node-" + node, "uid": "uid-" + node},
			"node":      map[string]any{"name": node, "uid": "node-" + node},
		},
	}
	if change != nil {
		change(c)
	}
	return c
}

// world is a prover over an API server that signs and reviews.
type world struct {
	*kubeapi.Server
	prover  *Prover
	store   *mesh.Store
	signer  *signer
	further []map[string]string // keys it publishes besides
	mu      sync.Mutex
	status  func(token string) authenticationv1.TokenReviewStatus // of a review
	reviews int
	code    int // of a review's answer, when not 0
	now     time.Time
}

func newWorld(t *testing.T, s *signer) *world {
	t.Helper()
	w := &world{Server: kubeapi.Start(t), store: mesh.NewStore(), signer: s, now: time.Now()}
	w.status = func(token string) authenticationv1.TokenReviewStatus {
		j, err := parseJWT(token)
		if err != nil {
			return authenticationv1.TokenReviewStatus{Error: err.Error()}
		}
		return authenticationv1.TokenReviewStatus{
			Authenticated: true, Audiences: []string{Audience},
			User: authenticationv1.UserInfo{Username: j.claims.Subject, Extra: map[string]authenticationv1.ExtraValue{
				extraPodUID: {j.claims.Kubernetes.Pod.UID}, extraNode: {j.claims.Kubernetes.Node.Name},
			}},
		}
	}
	w.Handle("tokenreviews", w.review)
	w.Handle("/openid/v1/jwks", func(rw http.ResponseWriter, _ *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		_ = json.NewEncoder(rw).Encode(map[string]any{"keys": append(w.further, w.signer.jwk())})
	})
	w.Handle("/.well-known/openid-configuration", func(rw http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(rw).Encode(map[string]any{"issuer": issuerName})
	})
	for _, n := range []string{"a", "b"} {
		w.store.Apply(mesh.PutWorkload{Workload: &mesh.Workload{
			UID: "Kubernetes//Pod/warren-system/warren-node-" + n, PodUID: "uid-" + n, Namespace: "warren-system", Name: "warren-node-" + n,
			ServiceAccount: NodeServiceAccount, Node: n, Capture: mesh.Outside,
		}})
	}
	var err error
	if w.prover, err = NewProver(ProverConfig{
		Client: w.Client(), Namespace: "warren-system", Snapshot: w.store.Snapshot, Now: w.clock, Log: discard,
	}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) review(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.reviews++
	code, status := w.code, w.status
	w.mu.Unlock() // status may wait for somebody who looks at the clock
	if code != 0 {
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(code)
		_ = json.NewEncoder(rw).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": http.StatusText(code)})
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	o, _, err := apiserver.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	review := o.(*authenticationv1.TokenReview)
	review.Status = status(review.Spec.Token)
	review.APIVersion, review.Kind = "authentication.k8s.io/v1", "TokenReview"
	u, err := runtime.DefaultUnstructuredConverter.ToUnstructured(review)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(u)
}

func (w *world) counted() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reviews
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

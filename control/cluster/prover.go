// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/client-go/rest"

	"github.com/warren-mesh/warren/control/ca"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube/apiserver"
)

const (
	// Audience is the one the node pods' tokens are made for.
	Audience = "warren-ca"
	// NodeServiceAccount is the node pods' account, in control's namespace.
	NodeServiceAccount = "warren-node"

	extraPodUID = "authentication.kubernetes.io/pod-uid"
	extraNode   = "authentication.kubernetes.io/node-name"

	maxToken = 8 << 10
	// reviewTimeout is how long the API server may take before it counts as away; awayFor how long it then is
	// not asked again.
	reviewTimeout = 2 * time.Second
	awayFor       = 5 * time.Second
)

// ProverConfig of a Prover.
type ProverConfig struct {
	Client *apiserver.Client
	// Namespace of the mesh's own pods.
	Namespace string
	// Snapshot is the mesh as control sees it; nil while the objects are not read yet.
	Snapshot func() *mesh.Snapshot
	Now      func() time.Time
	Log      *slog.Logger
}

// Prover proves nodes by the bound token of the Warren pod that runs there: signed by the API server for our
// audience and that pod, which the API server confirms to exist. While it is away, the pods and the keys that are
// known stand for its word. Safe for concurrent use; see NewProver.
type Prover struct {
	cfg     ProverConfig
	subject string
	reviews rest.Interface
	issuer  *issuer
	proven  *proven
	judging singleflight.Group // by token

	mu   sync.Mutex
	away time.Time // until when the API server is not asked
}

var _ ca.NodeProver = (*Prover)(nil)

// NewProver returns a prover. Until Run has read the API server's keys it asks the API server only.
func NewProver(cfg ProverConfig) (*Prover, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	reviews, err := cfg.Client.Group(authenticationv1.SchemeGroupVersion)
	if err != nil {
		return nil, err
	}
	return &Prover{
		cfg: cfg, subject: "system:serviceaccount:" + cfg.Namespace + ":" + NodeServiceAccount,
		reviews: reviews, issuer: &issuer{core: reviews, now: cfg.Now}, proven: newProven(cfg.Now),
	}, nil
}

// Run keeps the API server's keys until ctx ends.
func (p *Prover) Run(ctx context.Context) error {
	told := ""
	for {
		wait := keysInterval
		_, err := p.issuer.refresh(ctx)
		if err != nil {
			wait = keysRetry
		} else {
			err = p.issuer.unread()
		}
		if err != nil && told != err.Error() && ctx.Err() == nil {
			p.cfg.Log.Warn("nodes can't be proved while the API server is away", "err", err)
		}
		if told = ""; err != nil {
			told = err.Error()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// Prove returns the node the token's pod runs on.
func (p *Prover) Prove(ctx context.Context, token string) (string, error) {
	if token == "" || len(token) > maxToken {
		return "", errNotJWT
	}
	t, err := parseJWT(token)
	if err != nil {
		return "", err
	}
	if err := p.meantForUs(t); err != nil {
		return "", err
	}
	if node, err, ok := p.proven.get(token); ok {
		return node, err
	}
	// A node that starts asks for all its pods' certificates at once: one judgement serves them all.
	judged := p.judging.DoChan(token, func() (any, error) { return p.judge(context.WithoutCancel(ctx), token, t) })
	select {
	case r := <-judged:
		return r.Val.(string), r.Err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// judge decides about a token that is not remembered, and remembers it.
func (p *Prover) judge(ctx context.Context, token string, t *jwt) (string, error) {
	unjudged, err := p.signature(ctx, t)
	if err != nil {
		return "", err
	}
	node, err := p.ask(ctx, token, t, unjudged)
	if err == nil || !isPassing(err) {
		p.proven.put(token, node, err, t.claims.Expires)
	}
	return node, err
}

// meantForUs refuses, without asking anybody, what says itself that it is no node pod's token for us.
func (p *Prover) meantForUs(t *jwt) error {
	switch {
	case t.claims.Subject != p.subject:
		return fmt.Errorf("token is of %q, want %q", t.claims.Subject, p.subject)
	case !slices.Contains(t.claims.Audience, Audience):
		return fmt.Errorf("token is for audience %q, want %q", t.claims.Audience, Audience)
	case t.claims.Kubernetes.Pod.UID == "":
		return errors.New("token is bound to no pod")
	}
	return t.claims.current(p.cfg.Now())
}

// signature checks the signature where the API server's keys are known, which spares the API server the tokens strangers
// make up. unjudged is why they can't tell: the API server's word alone counts then, and offline there is none.
func (p *Prover) signature(ctx context.Context, t *jwt) (unjudged, err error) {
	name, keys, ok := p.issuer.known()
	if ok {
		err = t.verify(keys)
	}
	if !ok || errors.Is(err, errUnknownKey) {
		fresh, refreshErr := p.issuer.refresh(ctx)
		switch {
		case fresh && refreshErr == nil:
		case ok:
			return errUnknownKey, nil // when they were last read
		default:
			return errors.New("its keys were never read"), nil
		}
		name, keys, _ = p.issuer.known()
		err = t.verify(keys)
	}
	switch {
	case errors.Is(err, errUnreadKey):
		return err, nil
	case err == nil && t.claims.Issuer != name:
		// An API server takes tokens of several issuers while one follows another, and names the one it signs as.
		return fmt.Errorf("token is issued by %q, want %q", t.claims.Issuer, name), nil
	}
	return nil, err
}

// ask has the API server review the token, or judges by what is known while that is away.
func (p *Prover) ask(ctx context.Context, token string, t *jwt, unjudged error) (string, error) {
	if p.isAway() {
		return p.offline(t, unjudged)
	}
	node, err := p.review(ctx, token, t)
	if !away(err) {
		return node, err
	}
	p.mu.Lock()
	p.away = p.cfg.Now().Add(awayFor)
	p.mu.Unlock()
	p.cfg.Log.Warn("the API server does not review tokens: judging by what is known", "err", err)
	return p.offline(t, unjudged)
}

func (p *Prover) isAway() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cfg.Now().Before(p.away)
}

// review is the API server's word.
func (p *Prover) review(ctx context.Context, token string, t *jwt) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	r := &authenticationv1.TokenReview{}
	err := p.reviews.Post().Resource("tokenreviews").Body(&authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{Audience}},
	}).Do(ctx).Into(r)
	if err != nil {
		return "", passing{fmt.Errorf("review token: %w", err)}
	}
	s := r.Status
	switch {
	case !s.Authenticated:
		return "", fmt.Errorf("the API server does not take the token: %s", s.Error)
	case !slices.Contains(s.Audiences, Audience):
		return "", fmt.Errorf("the API server takes the token for audience %q only", s.Audiences)
	case s.User.Username != p.subject:
		return "", fmt.Errorf("token is of %q, want %q", s.User.Username, p.subject)
	}
	uid := first(s.User.Extra[extraPodUID])
	if uid == "" || uid != t.claims.Kubernetes.Pod.UID {
		return "", errors.New("token is bound to no pod")
	}
	return p.nodeOf(uid, first(s.User.Extra[extraNode]))
}

func first(v authenticationv1.ExtraValue) string {
	if len(v) == 0 {
		return ""
	}
	return v[0]
}

// nodeOf is the node named, unless the pod is known to run elsewhere. A cluster older than 1.30 names none: the
// pod tells then.
func (p *Prover) nodeOf(podUID, named string) (string, error) {
	var w *mesh.Workload
	if snap := p.cfg.Snapshot(); snap != nil {
		w = snap.WorkloadByPod(podUID)
	}
	switch {
	case named == "" && (w == nil || w.Node == ""):
		return "", passing{errors.New("token names no node, and its pod is not known to be on one")}
	case w == nil || w.Node == "":
		return named, nil
	case named != "" && w.Node != named:
		return "", fmt.Errorf("token names node %q, its pod is on %q", named, w.Node)
	}
	return w.Node, nil
}

// offline judges without the API server: the signature is right, and the pod is one of ours that is known.
func (p *Prover) offline(t *jwt, unjudged error) (string, error) {
	if unjudged != nil {
		return "", passing{fmt.Errorf("the API server is away, and %w", unjudged)}
	}
	snap := p.cfg.Snapshot()
	if snap == nil {
		return "", passing{errors.New("the API server is away, and the pods were never read")}
	}
	pod := t.claims.Kubernetes.Pod
	w := snap.WorkloadByPod(pod.UID)
	if w == nil || w.Namespace != p.cfg.Namespace || w.Name != pod.Name || w.ServiceAccount != NodeServiceAccount {
		return "", passing{fmt.Errorf("the API server is away, and pod %s/%s is not known", p.cfg.Namespace, pod.Name)}
	}
	return p.nodeOf(pod.UID, t.claims.Kubernetes.Node.Name)
}

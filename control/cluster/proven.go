// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"net/url"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// provenFor is how long a proof is good without another review: how long a deleted pod's token lasts.
	provenFor = time.Minute
	// refusedFor likewise for a refusal.
	refusedFor = 5 * time.Second
	maxProven  = 4096
)

// passing is an error that says nothing about the token, and is not remembered.
type passing struct{ error }

func (p passing) Unwrap() error { return p.error }

func isPassing(err error) bool {
	var p passing
	return errors.As(err, &p)
}

// away reports whether an error means that the API server did not answer, or could not.
func away(err error) bool {
	if err == nil {
		return false
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		code := status.Status().Code
		return code >= http.StatusInternalServerError || code == http.StatusTooManyRequests
	}
	var transport *url.Error // what net/http makes of every failure to get an answer
	return errors.As(err, &transport) || errors.Is(err, context.DeadlineExceeded)
}

// proven remembers judgements by the hash of their token.
type proven struct {
	now func() time.Time

	mu     sync.Mutex
	byHash map[[sha256.Size]byte]judgement
}

type judgement struct {
	node  string
	err   error
	until time.Time
}

func newProven(now func() time.Time) *proven {
	return &proven{now: now, byHash: map[[sha256.Size]byte]judgement{}}
}

func (p *proven) get(token string) (node string, err error, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	j, ok := p.byHash[sha256.Sum256([]byte(token))]
	if !ok || p.now().After(j.until) {
		return "", nil, false
	}
	return j.node, j.err, true
}

// put remembers a judgement, at longest until the token expires (Unix time).
func (p *proven) put(token, node string, err error, expires float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if len(p.byHash) >= maxProven {
		for hash, j := range p.byHash {
			if now.After(j.until) {
				delete(p.byHash, hash)
			}
		}
		if len(p.byHash) >= maxProven {
			clear(p.byHash)
		}
	}
	until := now.Add(refusedFor)
	if err == nil {
		until = now.Add(provenFor)
		if end := time.Unix(int64(expires), 0); end.Before(until) {
			until = end
		}
	}
	p.byHash[sha256.Sum256([]byte(token))] = judgement{node: node, err: err, until: until}
}

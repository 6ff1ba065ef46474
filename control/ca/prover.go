// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// NodeProver tells which node a caller is from the bearer token it shows. An error means it did not prove
// any; the text goes to the log, never to the caller. Safe for concurrent use.
type NodeProver interface {
	Prove(ctx context.Context, token string) (node string, err error)
}

const (
	// minToken is the fewest bytes of a token that is taken seriously.
	minToken = 16
	maxToken = 8 << 10
	// tokenReload is how long a changed or removed token file may go unnoticed.
	tokenReload = time.Second
)

// TokenDir proves nodes by a directory of one token file per node, named like the node: what stands in for
// the API server's TokenReview where there is none. Files are read again when they change.
type TokenDir struct {
	dir string
	log *slog.Logger

	mu     sync.Mutex
	loaded time.Time
	hashes map[[sha256.Size]byte]string // node by the hash of its token
	errs   map[string]string            // last complaint by file, so that each is logged once
}

var _ NodeProver = (*TokenDir)(nil)

// NewTokenDir returns a prover over dir.
func NewTokenDir(dir string, log *slog.Logger) *TokenDir { return &TokenDir{dir: dir, log: log} }

var (
	errNoToken      = errors.New("no bearer token")
	errUnknownToken = errors.New("token belongs to no node (is it in --node-tokens, and the same on the node?)")
)

// Prove returns the node whose file holds the token.
func (d *TokenDir) Prove(_ context.Context, token string) (string, error) {
	if len(token) < minToken || len(token) > maxToken {
		return "", errNoToken
	}
	known, err := d.tokens()
	if err != nil {
		return "", err
	}
	// Hashes are compared, all of them, so that time tells nothing about how much of which token was right.
	got := sha256.Sum256([]byte(token))
	node := ""
	for want, n := range known {
		if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
			node = n
		}
	}
	if node == "" {
		return "", errUnknownToken
	}
	return node, nil
}

func (d *TokenDir) tokens() (map[[sha256.Size]byte]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hashes != nil && time.Since(d.loaded) < tokenReload {
		return d.hashes, nil
	}
	hashes, errs, err := readTokens(d.dir)
	if err != nil {
		return nil, err
	}
	for node, text := range errs {
		if d.errs[node] != text {
			d.log.Warn("node token not used", "node", node, "err", text)
		}
	}
	if !maps.Equal(hashes, d.hashes) {
		d.log.Info("read node tokens", "dir", d.dir, "nodes", len(hashes))
	}
	d.hashes, d.errs, d.loaded = hashes, errs, time.Now()
	return hashes, nil
}

// readTokens reads every token file of dir. A token two nodes share proves neither.
func readTokens(dir string) (map[[sha256.Size]byte]string, map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	hashes, errs, seen := map[[sha256.Size]byte]string{}, map[string]string{}, map[[sha256.Size]byte]string{}
	for _, e := range entries {
		node := e.Name()
		if strings.HasPrefix(node, ".") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, node)) // follows links: mounted Secrets are links
		if err != nil {
			errs[node] = err.Error()
			continue
		}
		token := strings.TrimSpace(string(data))
		sum := sha256.Sum256([]byte(token))
		clear(data)
		switch other, twice := seen[sum]; {
		case len(token) < minToken || len(token) > maxToken:
			errs[node] = "token is shorter than 16 or longer than 8192 bytes"
			continue
		case twice:
			errs[node] = "same token as " + other
			delete(hashes, sum)
		default:
			hashes[sum] = node
		}
		seen[sum] = node
	}
	return hashes, errs, nil
}

// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
)

const (
	// keysInterval is how often the API server's keys are read; keysRetry how soon again after that failed, or
	// when a token names a key that is not known.
	keysInterval = 5 * time.Minute
	keysRetry    = 10 * time.Second
	minRSA       = 2048
)

// issuer is the API server as a signer of tokens: its name and public keys, kept while it is away.
type issuer struct {
	core rest.Interface
	now  func() time.Time

	mu    sync.Mutex
	name  string
	keys  map[string]crypto.PublicKey // by key id; nil where it can't be used here
	read  time.Time                   // of keys
	tried time.Time
}

// known returns name and keys; ok is false before they were read once.
func (i *issuer) known() (name string, keys map[string]crypto.PublicKey, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.name, i.keys, i.keys != nil
}

// unread tells of the keys that can't be used here.
func (i *issuer) unread() error {
	_, keys, _ := i.known()
	var ids []string
	for id, k := range keys {
		if k == nil {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(ids)
	return fmt.Errorf("tokens signed by %s can't be checked here: neither RSA from %d bits nor P-256, P-384 or P-521", strings.Join(ids, ", "), minRSA)
}

// refresh reads the keys again unless that was tried a moment ago; fresh reports whether those that are known
// were read within that moment.
func (i *issuer) refresh(ctx context.Context) (fresh bool, err error) {
	i.mu.Lock()
	now := i.now()
	if now.Sub(i.tried) < keysRetry && !i.tried.IsZero() {
		defer i.mu.Unlock()
		return now.Sub(i.read) < keysRetry && !i.read.IsZero(), nil
	}
	i.tried = now
	i.mu.Unlock()

	name, keys, err := i.fetch(ctx)
	if err != nil {
		return false, fmt.Errorf("read the API server's token keys: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.name, i.keys, i.read = name, keys, now
	return true, nil
}

func (i *issuer) fetch(ctx context.Context) (string, map[string]crypto.PublicKey, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	get := func(path string) ([]byte, error) {
		return i.core.Get().AbsPath(path).SetHeader("Accept", "application/json, */*").Do(ctx).Raw()
	}
	b, err := get("/.well-known/openid-configuration")
	if err != nil {
		return "", nil, err
	}
	var about struct{ Issuer string }
	if err := json.Unmarshal(b, &about); err != nil || about.Issuer == "" {
		return "", nil, errors.New("/.well-known/openid-configuration names no issuer")
	}
	if b, err = get("/openid/v1/jwks"); err != nil {
		return "", nil, err
	}
	keys, err := parseJWKS(b)
	return about.Issuer, keys, err
}

// parseJWKS reads a key set (RFC 7517). Keys that can't be used here are nil: of their tokens the API server alone can tell.
func parseJWKS(b []byte) (map[string]crypto.PublicKey, error) {
	var set struct {
		Keys []struct {
			Kty, Kid, Use, Crv, N, E, X, Y string
		}
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, fmt.Errorf("read key set: %w", err)
	}
	keys := map[string]crypto.PublicKey{}
	for _, k := range set.Keys {
		if k.Use != "" && k.Use != "sig" {
			continue
		}
		var key crypto.PublicKey
		switch k.Kty {
		case "RSA":
			key = rsaKey(k.N, k.E)
		case "EC":
			key = ecKey(k.Crv, k.X, k.Y)
		}
		if keys[k.Kid] == nil {
			keys[k.Kid] = key
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("read key set: no key of signatures in it")
	}
	return keys, nil
}

func rsaKey(n, e string) crypto.PublicKey {
	modulus, err1 := base64.RawURLEncoding.DecodeString(n)
	exponent, err2 := base64.RawURLEncoding.DecodeString(e)
	if errors.Join(err1, err2) != nil || len(exponent) == 0 || len(exponent) > 4 {
		return nil
	}
	k := &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: int(new(big.Int).SetBytes(exponent).Int64())}
	if k.N.BitLen() < minRSA || k.E < 3 || k.E%2 == 0 {
		return nil
	}
	return k
}

var curves = map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}

func ecKey(name, x, y string) crypto.PublicKey {
	curve, known := curves[name]
	bx, err1 := base64.RawURLEncoding.DecodeString(x)
	by, err2 := base64.RawURLEncoding.DecodeString(y)
	if !known || errors.Join(err1, err2) != nil || len(bx) != octets(curve) || len(by) != octets(curve) {
		return nil
	}
	point := append(append([]byte{4}, bx...), by...) // uncompressed (SEC 1)
	k, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil
	}
	return k
}

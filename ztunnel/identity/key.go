// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"sync"
)

var errErased = errors.New("key was erased")

// key is a private key that can be taken back: TLS configurations hold the key, not the number in it, so
// that none of them can sign any more once it is erased.
type key struct {
	pub crypto.PublicKey

	mu   sync.RWMutex // held for reading while signing
	priv *ecdsa.PrivateKey
}

var _ crypto.Signer = (*key)(nil)

func newKey() (*key, error) {
	p, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &key{priv: p, pub: p.Public()}, nil
}

func (k *key) Public() crypto.PublicKey { return k.pub }

func (k *key) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.priv == nil {
		return nil, errErased
	}
	return k.priv.Sign(r, digest, opts)
}

// erase overwrites the secret scalar and drops the key, after signatures under way have ended. What Go does
// not let us reach stays until the collector reuses its memory: the standard library's own converted copy of
// the key (it is cached by the key's address and released with it), copies on goroutine stacks that grew
// while signing, and the nonces of past signatures. Keys are never serialised here, so no encoding of them exists.
func (k *key) erase() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.priv == nil {
		return
	}
	//lint:ignore SA1019 there is no other way to reach the bytes, and the key is never used again
	clear(k.priv.D.Bits())
	k.priv = nil
}

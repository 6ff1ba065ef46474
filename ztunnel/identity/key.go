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

func newKey() (k *key, err error) {
	wiped(func() {
		var p *ecdsa.PrivateKey
		if p, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return
		}
		// The standard library converts a key at its first signature and keeps that copy as long as the key: it has to
		// be made in here. Later signatures leave nothing on the heap and need not pay for this.
		if _, err = p.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err != nil {
			return
		}
		var pub crypto.PublicKey
		if pub, err = publicCopy(&p.PublicKey); err == nil {
			k = &key{priv: p, pub: pub}
		}
	})
	return k, err
}

// publicCopy is not part of the private key's memory: it outlives it.
func publicCopy(p *ecdsa.PublicKey) (crypto.PublicKey, error) {
	b, err := p.Bytes()
	if err != nil {
		return nil, err
	}
	return ecdsa.ParseUncompressedPublicKey(p.Curve, b)
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

// erase overwrites the secret scalar and drops the key, after signatures under way have ended. What Go does not let us
// reach is the standard library's converted copy: the collector frees it with the key. Built with
// GOEXPERIMENT=runtimesecret it is zeroed then (see wiped); without, it stays until that memory is used again, as do
// copies on goroutines' stacks, in both, until they are overwritten. Keys are never serialised here, so no encoding of
// them exists.
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

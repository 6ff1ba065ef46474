// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // what crypto.Hash finds
	_ "crypto/sha512"
	"math/big"
)

// algorithm is one of signatures (RFC 7518, section 3).
type algorithm struct {
	hash   crypto.Hash
	verify func(key crypto.PublicKey, h crypto.Hash, digest, signature []byte) bool
}

// algorithms are those of public keys that the standard library verifies: more than an API server signs by, so that
// it changes to none of which the tokens are refused here.
var algorithms = map[string]algorithm{
	"RS256": {crypto.SHA256, pkcs1}, "RS384": {crypto.SHA384, pkcs1}, "RS512": {crypto.SHA512, pkcs1},
	"PS256": {crypto.SHA256, pss}, "PS384": {crypto.SHA384, pss}, "PS512": {crypto.SHA512, pss},
	"ES256": {crypto.SHA256, on(elliptic.P256())},
	"ES384": {crypto.SHA384, on(elliptic.P384())},
	"ES512": {crypto.SHA512, on(elliptic.P521())},
}

func pkcs1(key crypto.PublicKey, h crypto.Hash, digest, signature []byte) bool {
	k, ok := key.(*rsa.PublicKey)
	return ok && rsa.VerifyPKCS1v15(k, h, digest, signature) == nil
}

func pss(key crypto.PublicKey, h crypto.Hash, digest, signature []byte) bool {
	k, ok := key.(*rsa.PublicKey)
	return ok && rsa.VerifyPSS(k, h, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
}

// on verifies ECDSA on a curve, of which the algorithm allows no other.
func on(curve elliptic.Curve) func(crypto.PublicKey, crypto.Hash, []byte, []byte) bool {
	size := octets(curve)
	return func(key crypto.PublicKey, _ crypto.Hash, digest, signature []byte) bool {
		k, ok := key.(*ecdsa.PublicKey)
		if !ok || k.Curve != curve || len(signature) != 2*size {
			return false
		}
		return ecdsa.Verify(k, digest, new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:]))
	}
}

// octets is the length of a coordinate, and of half a signature.
func octets(curve elliptic.Curve) int { return (curve.Params().BitSize + 7) / 8 }

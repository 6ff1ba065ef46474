// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// jwt is a service account token (RFC 7519) taken apart. Nothing in it is true before verify said so.
type jwt struct {
	signed    []byte // what the signature is over
	signature []byte
	header    struct {
		Algorithm string          `json:"alg"`
		KeyID     string          `json:"kid"`
		Critical  json.RawMessage `json:"crit"`
	}
	claims claims
}

// claims are those of Kubernetes' bound tokens.
type claims struct {
	Issuer     string   `json:"iss"`
	Subject    string   `json:"sub"`
	Audience   audience `json:"aud"`
	Expires    float64  `json:"exp"` // Unix time
	NotBefore  float64  `json:"nbf"`
	Kubernetes struct {
		Pod  reference `json:"pod"`
		Node reference `json:"node"`
	} `json:"kubernetes.io"`
}

type reference struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// audience is one string or several.
type audience []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *audience) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(a))
}

var errNotJWT = errors.New("not a service account token")

func parseJWT(token string) (*jwt, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errNotJWT
	}
	t := &jwt{signed: []byte(parts[0] + "." + parts[1])}
	for i, into := range []any{&t.header, &t.claims} {
		b, err := base64.RawURLEncoding.Strict().DecodeString(parts[i])
		if err != nil {
			return nil, errNotJWT
		}
		if err := json.Unmarshal(b, into); err != nil {
			return nil, errNotJWT
		}
	}
	var err error
	if t.signature, err = base64.RawURLEncoding.Strict().DecodeString(parts[2]); err != nil {
		return nil, errNotJWT
	}
	return t, nil
}

// leeway lets the API server's clock be ahead of ours, or a little behind.
const leeway = 10 * time.Second

// current reports whether the token's times fit.
func (c *claims) current(now time.Time) error {
	unix := float64(now.UnixMilli()) / 1000
	switch {
	case c.Expires == 0:
		return errors.New("token never expires, which a bound token does")
	case unix > c.Expires+leeway.Seconds():
		return errors.New("token has expired")
	case unix < c.NotBefore-leeway.Seconds():
		return errors.New("token is not valid yet (compare the clocks)")
	}
	return nil
}

var (
	errUnknownKey   = errors.New("token is signed by a key the API server does not publish")
	errUnreadKey    = errors.New("token is signed by a key that can't be checked here")
	errBadSignature = errors.New("token's signature is wrong")
)

// verify checks the signature by the key the header names.
func (t *jwt) verify(keys map[string]crypto.PublicKey) error {
	if len(t.header.Critical) > 0 {
		return errors.New("token's header has extensions that are not understood")
	}
	key, published := keys[t.header.KeyID]
	switch {
	case !published:
		return errUnknownKey
	case key == nil:
		return errUnreadKey
	}
	// The algorithm has to be one of the key's kind: the header only chooses among these.
	a, ok := algorithms[t.header.Algorithm]
	if !ok {
		return errBadSignature
	}
	h := a.hash.New()
	h.Write(t.signed)
	if !a.verify(key, a.hash, h.Sum(nil), t.signature) {
		return errBadSignature
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/warren-mesh/warren/mesh"
)

// MaxCSR is the largest certificate request read, in bytes of PEM.
const MaxCSR = 16 << 10

// CSR is a certificate request that was checked.
type CSR struct {
	// Identity is the one URI it asks for; zero when it names none.
	Identity mesh.Identity
	// PublicKey was proven by the request's signature.
	PublicKey *ecdsa.PublicKey
}

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// ParseCSR reads one PEM certificate request: at most MaxCSR bytes, an ECDSA P-256 or P-384 key that signed
// it, and no name besides at most one SPIFFE URI of a workload's form. Whatever else it asks for in its
// subject and extensions is not read: Issue takes only the key.
func ParseCSR(data []byte) (*CSR, error) {
	if len(data) > MaxCSR {
		return nil, fmt.Errorf("parse CSR: %d bytes (at most %d)", len(data), MaxCSR)
	}
	block, rest := pem.Decode(data)
	if block == nil || (block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST") {
		return nil, errors.New("parse CSR: no PEM block CERTIFICATE REQUEST")
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, errors.New("parse CSR: more than one PEM block")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse CSR: %w", err)
	}
	// The key's kind is checked before its signature: verifying with a stranger's choice of key can be dear.
	pub, ok := req.PublicKey.(*ecdsa.PublicKey)
	if !ok || (pub.Curve != elliptic.P256() && pub.Curve != elliptic.P384()) {
		return nil, fmt.Errorf("parse CSR: key is %v (want ECDSA P-256 or P-384)", req.PublicKeyAlgorithm)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("parse CSR: signature: %w", err)
	}
	id, err := requestedIdentity(req)
	if err != nil {
		return nil, fmt.Errorf("parse CSR: %w", err)
	}
	return &CSR{Identity: id, PublicKey: pub}, nil
}

// requestedIdentity returns the request's one URI. It counts the names itself: x509 drops the kinds of name
// it does not know (otherName, directoryName), and a request that asks for them is refused, not trimmed.
func requestedIdentity(req *x509.CertificateRequest) (mesh.Identity, error) {
	var names []asn1.RawValue
	for _, e := range req.Extensions {
		if !e.Id.Equal(oidSubjectAltName) {
			continue
		}
		var some []asn1.RawValue
		if rest, err := asn1.Unmarshal(e.Value, &some); err != nil || len(rest) > 0 {
			return mesh.Identity{}, errors.New("subject alternative names are malformed")
		}
		names = append(names, some...)
	}
	switch {
	case len(names) == 0:
		return mesh.Identity{}, nil
	case len(names) != 1 || len(req.URIs) != 1:
		return mesh.Identity{}, fmt.Errorf("%d subject alternative names (want one SPIFFE URI)", len(names))
	}
	return parseIdentity(req.URIs[0].String())
}

// parseIdentity reads a workload's SPIFFE URI, strictly in SPIFFE's characters.
func parseIdentity(uri string) (mesh.Identity, error) {
	if _, err := spiffeid.FromString(uri); err != nil {
		return mesh.Identity{}, fmt.Errorf("identity %.256q: %w", uri, err)
	}
	return mesh.ParseIdentity(uri)
}

// checkIdentity reports whether id can be issued in a trust domain.
func checkIdentity(id mesh.Identity, trustDomain string) error {
	back, err := parseIdentity(id.String())
	if err != nil {
		return err
	}
	if back != id {
		return fmt.Errorf("identity %s does not survive its text form", id)
	}
	if id.TrustDomain != trustDomain {
		return fmt.Errorf("%w: identity %s, ours is %s", errTrustDomain, id, trustDomain)
	}
	return nil
}

var errTrustDomain = errors.New("another trust domain")

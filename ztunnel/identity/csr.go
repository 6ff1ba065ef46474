// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"

	"github.com/warren-mesh/warren/mesh"
)

// tagURI is GeneralName's [6] uniformResourceIdentifier (RFC 5280 §4.2.1.6).
const tagURI = 6

// newCSR makes the PEM request for id: empty subject, one critical URI name. The extension is written by hand
// because the standard library never marks it critical in a request.
func newCSR(id mesh.Identity, signer crypto.Signer) ([]byte, error) {
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: tagURI, Bytes: []byte(id.String())}})
	if err != nil {
		return nil, fmt.Errorf("make CSR for %s: %w", id, err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san}},
	}, signer)
	if err != nil {
		return nil, fmt.Errorf("make CSR for %s: %w", id, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

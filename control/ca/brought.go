// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// readBrought reads the authority that the operator brings: the certificate that signs workloads' certificates, its
// key, what lies between it and the root, and the root. there are the files found.
func readBrought(f Files, there []string, now time.Time) (*material, error) {
	cert, key, chain, roots := tlsCert, tlsKey, tlsCert, tlsRoots
	if slices.Contains(there, cacertsCert) || slices.Contains(there, cacertsKey) {
		if slices.Contains(there, tlsCert) || slices.Contains(there, tlsKey) {
			return nil, fmt.Errorf("%s and %s: two authorities are brought (remove the files of one)", f.Path(cacertsCert), f.Path(tlsCert))
		}
		cert, key, chain, roots = cacertsCert, cacertsKey, cacertsChain, cacertsRoots
	}
	certs, err := readCerts(f, cert)
	if err != nil {
		return nil, err
	}
	if certs == nil {
		return nil, fmt.Errorf("%s: %w (%s is there)", f.Path(cert), errMissing, key)
	}
	pair := &keyPair{cert: certs[0]}
	if pair.key, err = readKey(f, key, cert); err != nil {
		return nil, err
	}
	if !pair.belongs() {
		return nil, fmt.Errorf("%s: is not the key of the first certificate in %s (%s)", f.Path(key), cert, pair.cert.Subject)
	}
	if err := checkSigning(pair.cert, now); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path(cert), err)
	}
	between := certs
	if chain != cert {
		more, err := readCerts(f, chain)
		if err != nil {
			return nil, err
		}
		between = union(certs, more)
	}
	anchors, err := readCerts(f, roots)
	if err != nil {
		return nil, err
	}
	if anchors == nil {
		if anchors = selfSigned(between); anchors == nil {
			return nil, fmt.Errorf("%s: %w, and no certificate in %s is a root (add the root of %s)", f.Path(roots), errMissing, chain, pair.cert.Issuer)
		}
	}
	path, err := findPath(pair.cert, between, anchors, now)
	if err != nil {
		return nil, fmt.Errorf("%s: no way from %s to a root in %s: %w", f.Path(cert), pair.cert.Subject, roots, err)
	}
	return &material{signing: pair, path: path, roots: anchors, brought: true}, nil
}

func readKey(f Files, name, cert string) (crypto.Signer, error) {
	data, err := f.Read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w (%s is there)", f.Path(name), errMissing, cert)
	}
	if err != nil {
		return nil, err
	}
	defer clear(data)
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "EC PARAMETERS" { // openssl ecparam -genkey writes them in front
			continue
		}
		k, err := parseKey(block)
		clear(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Path(name), err)
		}
		return k, nil
	}
	return nil, fmt.Errorf("%s: no key in it", f.Path(name))
}

// checkSigning says in plain words what is wrong with a certificate that is to sign; try finds what is left.
func checkSigning(c *x509.Certificate, now time.Time) error {
	switch {
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("%s may not sign certificates (its key usage lacks keyCertSign)", c.Subject)
	case now.After(c.NotAfter):
		return fmt.Errorf("%s expired at %s", c.Subject, c.NotAfter.Format(time.RFC3339))
	case now.Before(c.NotBefore):
		return fmt.Errorf("%s is valid only from %s (is this machine's clock right?)", c.Subject, c.NotBefore.Format(time.RFC3339))
	}
	return nil
}

func selfSigned(certs []*x509.Certificate) (out []*x509.Certificate) {
	for _, c := range certs {
		if c.CheckSignatureFrom(c) == nil {
			out = append(out, c)
		}
	}
	return out
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

func findPath(cert *x509.Certificate, between, roots []*x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	paths, err := cert.Verify(x509.VerifyOptions{
		Roots: pool(roots), Intermediates: pool(between), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, err
	}
	return paths[0], nil
}

// try signs a certificate that nobody gets and verifies it as a peer would: path lengths, name constraints, key
// usages and signatures of the whole path in one. names reports whether control's DNS names pass as well.
func (m *material) try(trustDomain string, now time.Time) (names bool, err error) {
	probe, err := newKey()
	if err != nil {
		return false, err
	}
	id := mesh.Identity{TrustDomain: trustDomain, Namespace: ControlNamespace, ServiceAccount: ControlServiceAccount}
	for _, dns := range [][]string{nil, serverNames()} {
		leaf, err := m.sign(id, probe.Public(), now, MinLeafTTL, dns)
		for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
			if err == nil {
				_, err = leaf.Verify(x509.VerifyOptions{
					Roots: pool(m.roots), Intermediates: pool(m.shown()), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
				})
			}
		}
		switch {
		case err == nil:
		case dns == nil:
			return false, fmt.Errorf("what %s signs for %s is not accepted: %w", m.signing.cert.Subject, id, err)
		default:
			return false, nil
		}
	}
	return true, nil
}

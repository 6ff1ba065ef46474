// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// authority issues the cluster's certificates; all of it ends with the cluster.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// subject is whom a certificate names: as a client by user and groups, as a server by names and addresses.
type subject struct {
	user   string
	groups []string
	names  []string
	addrs  []netip.Addr
}

// newAuthority writes ca.crt, ca.key and the key pair for service account tokens into dir.
func newAuthority(dir string) (*authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create certificate directory: %w", err)
	}
	a := &authority{dir: dir}
	var err error
	if a.pem, a.key, err = a.issue(subject{user: "test-cluster-ca"}); err != nil {
		return nil, err
	}
	block, _ := pem.Decode(a.pem)
	if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fmt.Errorf("parse CA certificate: %w", err)
	}
	if err := a.write("ca", a.pem, a.key); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make service account key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("make service account key: %w", err)
	}
	return a, a.write("service-accounts", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), key)
}

// issue signs a certificate; the first one is the CA's own.
func (a *authority) issue(s subject) ([]byte, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key of %s: %w", s.user, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, fmt.Errorf("make serial number: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: s.user, Organization: s.groups}, DNSNames: s.names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, ip := range s.addrs {
		t.IPAddresses = append(t.IPAddresses, net.IP(ip.AsSlice()))
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		t.IsCA, t.KeyUsage, t.ExtKeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign|x509.KeyUsageDigitalSignature, nil
		parent, signer = t, key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, fmt.Errorf("sign certificate of %s: %w", s.user, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key, nil
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// write stores NAME.crt and NAME.key.
func (a *authority) write(name string, cert []byte, key *ecdsa.PrivateKey) error {
	k, err := keyPEM(key)
	if err != nil {
		return err
	}
	for file, b := range map[string][]byte{name + ".crt": cert, name + ".key": k} {
		if err := os.WriteFile(a.path(file), b, 0o600); err != nil {
			return fmt.Errorf("write certificate: %w", err)
		}
	}
	return nil
}

func (a *authority) path(file string) string { return filepath.Join(a.dir, file) }

// pair issues a certificate and stores it as NAME.crt and NAME.key.
func (a *authority) pair(name string, s subject) error {
	cert, key, err := a.issue(s)
	if err != nil {
		return err
	}
	return a.write(name, cert, key)
}

// kubeconfig issues a client certificate and stores NAME.kubeconfig for the server.
func (a *authority) kubeconfig(name, server string, s subject) error {
	cert, key, err := a.issue(s)
	if err != nil {
		return err
	}
	k, err := keyPEM(key)
	if err != nil {
		return err
	}
	c := api.NewConfig()
	c.Clusters["warren"] = &api.Cluster{Server: server, CertificateAuthorityData: a.pem}
	c.AuthInfos[s.user] = &api.AuthInfo{ClientCertificateData: cert, ClientKeyData: k}
	c.Contexts["warren"] = &api.Context{Cluster: "warren", AuthInfo: s.user}
	c.CurrentContext = "warren"
	if err := clientcmd.WriteToFile(*c, a.path(name+".kubeconfig")); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}

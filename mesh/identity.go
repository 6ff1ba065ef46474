// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"fmt"
	"strings"
)

// DefaultTrustDomain is the trust domain of a mesh whose configuration names none.
const DefaultTrustDomain = "cluster.local"

// Identity is a workload's SPIFFE identity, spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
// The zero value means "no identity": a peer without a certificate.
type Identity struct {
	TrustDomain    string
	Namespace      string
	ServiceAccount string
}

// IsZero reports whether there is no identity.
func (i Identity) IsZero() bool { return i == Identity{} }

// String returns the SPIFFE URI, or "" without an identity.
func (i Identity) String() string {
	if i.IsZero() {
		return ""
	}
	return "spiffe://" + i.Principal()
}

// Principal returns the URI without its scheme, the form authorization policies compare.
func (i Identity) Principal() string {
	if i.IsZero() {
		return ""
	}
	return i.TrustDomain + "/ns/" + i.Namespace + "/sa/" + i.ServiceAccount
}

// ParseIdentity reads a SPIFFE URI of exactly the five segments of a workload identity
// (reference: SPIFFE-ID §2; Istio's ns/sa path). Every part must be non-empty.
func ParseIdentity(uri string) (Identity, error) {
	rest, ok := strings.CutPrefix(uri, "spiffe://")
	if !ok {
		return Identity{}, fmt.Errorf("parse identity %q: want scheme spiffe", uri)
	}
	p := strings.Split(rest, "/")
	if len(p) != 5 || p[1] != "ns" || p[3] != "sa" || p[0] == "" || p[2] == "" || p[4] == "" {
		return Identity{}, fmt.Errorf("parse identity %q: want spiffe://<trust domain>/ns/<namespace>/sa/<service account>", uri)
	}
	return Identity{TrustDomain: p[0], Namespace: p[2], ServiceAccount: p[4]}, nil
}

// MarshalText writes the SPIFFE URI.
func (i Identity) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText reads a SPIFFE URI; empty text is the zero value.
func (i *Identity) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*i = Identity{}
		return nil
	}
	v, err := ParseIdentity(string(b))
	if err != nil {
		return err
	}
	*i = v
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"slices"

	"github.com/warren-mesh/warren/mesh"
)

// Aliases returns the trust domains whose identities count as the mesh's own, as they are now; it is asked at each
// handshake. nil means that there are none.
type Aliases func() []string

// has reports whether trust domain td is own or one of its aliases.
func (a Aliases) has(own, td string) bool {
	return td == own || a != nil && slices.Contains(a(), td)
}

// same reports whether two identities are one where trust domain own counts as all of its aliases.
func (a Aliases) same(own string, x, y mesh.Identity) bool {
	if x == y {
		return true
	}
	return x.Namespace == y.Namespace && x.ServiceAccount == y.ServiceAccount && a.has(own, x.TrustDomain) && a.has(own, y.TrustDomain)
}

// expected reports whether a server's URI is one of those expected of it.
func (a Aliases) expected(own, uri string, expected []string) bool {
	if slices.Contains(expected, uri) {
		return true
	}
	if a == nil || len(a()) == 0 {
		return false
	}
	id, err := parseURI(uri)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(expected, func(e string) bool {
		want, err := parseURI(e)
		return err == nil && a.same(own, id, want)
	})
}

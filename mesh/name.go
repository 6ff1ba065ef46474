// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"fmt"
	"strings"
)

// Name is a namespaced object's name. Its text form is "namespace/name".
type Name struct {
	Namespace string
	Name      string
}

// String returns "namespace/name".
func (n Name) String() string { return n.Namespace + "/" + n.Name }

// IsZero reports whether the name is empty.
func (n Name) IsZero() bool { return n == Name{} }

// ParseName reads "namespace/name".
func ParseName(s string) (Name, error) {
	ns, name, ok := strings.Cut(s, "/")
	if !ok || ns == "" || name == "" || strings.Contains(name, "/") {
		return Name{}, fmt.Errorf("parse name %q: want namespace/name", s)
	}
	return Name{Namespace: ns, Name: name}, nil
}

// MarshalText writes "namespace/name".
func (n Name) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads "namespace/name".
func (n *Name) UnmarshalText(b []byte) error {
	v, err := ParseName(string(b))
	if err != nil {
		return err
	}
	*n = v
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package mesh

import "testing"

func TestParseIdentity(t *testing.T) {
	tests := []struct {
		uri string
		ok  bool
	}{
		{"spiffe://cluster.local/ns/shop/sa/web", true},
		{"spiffe://td/ns/a/sa/b/", false},
		{"spiffe://td/ns/a/sa/b/c", false},
		{"spiffe://td/ns/a/sa/", false},
		{"spiffe:///ns/a/sa/b", false},
		{"spiffe://td/ns//sa/b", false},
		{"spiffe://td/sa/a/ns/b", false},
		{"SPIFFE://td/ns/a/sa/b", false},
		{"https://td/ns/a/sa/b", false},
		{"spiffe://td", false},
		{"", false},
	}
	for _, tt := range tests {
		id, err := ParseIdentity(tt.uri)
		if (err == nil) != tt.ok {
			t.Errorf("%q: got %+v, %v; want ok %v", tt.uri, id, err, tt.ok)
		}
		if tt.ok && id.String() != tt.uri {
			t.Errorf("%q became %q", tt.uri, id)
		}
		if !tt.ok && !id.IsZero() {
			t.Errorf("%q: refused, yet gave %+v", tt.uri, id)
		}
	}
}

func FuzzParseIdentity(f *testing.F) {
	f.Add("spiffe://cluster.local/ns/shop/sa/web")
	f.Add("spiffe://td/ns/a/sa/b/c")
	f.Fuzz(func(t *testing.T, uri string) {
		if id, err := ParseIdentity(uri); err == nil && id.String() != uri {
			t.Errorf("%q became %q", uri, id)
		}
	})
}

func TestIdentityText(t *testing.T) {
	var id Identity
	if err := id.UnmarshalText([]byte("spiffe://td/ns/a/sa/b")); err != nil || id.Namespace != "a" {
		t.Errorf("got %+v, %v", id, err)
	}
	if err := id.UnmarshalText(nil); err != nil || !id.IsZero() {
		t.Errorf("empty text: got %+v, %v", id, err)
	}
	if id.String() != "" || id.Principal() != "" {
		t.Errorf("no identity reads %q, %q", id.String(), id.Principal())
	}
	if err := id.UnmarshalText([]byte("x")); err == nil {
		t.Error("nonsense was taken")
	}
}

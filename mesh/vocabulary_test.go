// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"net/netip"
	"testing"
)

func TestConfigRanges(t *testing.T) {
	c := &Config{
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/64")},
		Exceptions:   []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
	}
	tests := []struct {
		addr              string
		cluster, excepted bool
	}{
		{"10.1.2.3", true, false},
		{"::ffff:10.1.2.3", true, false},
		{"fd00::1", true, false},
		{"fd00:0:0:1::1", false, false},
		{"192.0.2.9", false, true},
		{"::ffff:192.0.2.9", false, true},
		{"169.254.169.254", false, true},
		{"::ffff:169.254.169.254", false, true},
		{"fe80::1", false, true},
		{"198.51.100.1", false, false},
	}
	for _, tt := range tests {
		a := netip.MustParseAddr(tt.addr)
		if c.InCluster(a) != tt.cluster || c.Excepted(a) != tt.excepted {
			t.Errorf("%s: in cluster %v, excepted %v", a, c.InCluster(a), c.Excepted(a))
		}
	}
	if (&Config{}).InCluster(netip.MustParseAddr("10.0.0.1")) {
		t.Error("a cluster without ranges has an address inside")
	}
}

func TestStringMatch(t *testing.T) {
	tests := []struct {
		m    StringMatch
		s    string
		want bool
	}{
		{StringMatch{MatchExact, "a"}, "a", true},
		{StringMatch{MatchExact, "a"}, "ab", false},
		{StringMatch{MatchExact, ""}, "", false},
		{StringMatch{MatchPrefix, "a"}, "ab", true},
		{StringMatch{MatchPrefix, ""}, "", false},
		{StringMatch{MatchSuffix, "b"}, "ab", true},
		{StringMatch{MatchSuffix, "b"}, "ba", false},
		{StringMatch{MatchPresence, ""}, "x", true},
		{StringMatch{MatchPresence, ""}, "", false},
	}
	for _, tt := range tests {
		if got := tt.m.Matches(tt.s); got != tt.want {
			t.Errorf("%+v matches %q: got %v", tt.m, tt.s, got)
		}
	}
}

func TestParseName(t *testing.T) {
	for s, ok := range map[string]bool{"a/b": true, "a": false, "/b": false, "a/": false, "a/b/c": false, "": false} {
		n, err := ParseName(s)
		if (err == nil) != ok || ok && n.String() != s || n.IsZero() == ok {
			t.Errorf("%q: got %v, %v", s, n, err)
		}
	}
}

func TestWorkloadIdentity(t *testing.T) {
	var none *Workload
	for want, w := range map[string]*Workload{
		"":                                 {Namespace: "a"},
		"spiffe://cluster.local/ns/a/sa/b": {Namespace: "a", ServiceAccount: "b"},
		"spiffe://example.org/ns/a/sa/b":   {Namespace: "a", ServiceAccount: "b", TrustDomain: "example.org"},
	} {
		if got := w.Identity().String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if !none.Identity().IsZero() {
		t.Error("no workload has an identity")
	}
	if Capture(200).String() != "unknown" || Pending.String() != "pending" {
		t.Error("capture's words")
	}
}

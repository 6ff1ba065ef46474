// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/warren-mesh/warren/mesh"
)

// TestPolicyJSON is the shape that ambient's tools read.
func TestPolicyJSON(t *testing.T) {
	p := &mesh.Policy{Name: mesh.Name{Namespace: "shop", Name: "p"}, Scope: mesh.ScopeWorkload, Action: mesh.Deny, Rules: []mesh.Rule{
		{Clauses: []mesh.Clause{{Matches: []mesh.Match{{
			Namespaces:         []mesh.StringMatch{{Kind: mesh.MatchExact, Value: "a"}, {Kind: mesh.MatchPrefix, Value: "b"}, {Kind: mesh.MatchSuffix, Value: "c"}},
			NotPrincipals:      []mesh.StringMatch{{Kind: mesh.MatchPresence}, {Kind: mesh.MatchExact}},
			NotServiceAccounts: []mesh.Name{{Namespace: "shop", Name: "web"}},
			SourceIPs:          []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, NotDestinationPorts: []uint16{80},
		}}}}}, {},
	}}
	got, err := json.Marshal(policy(p))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"name":"p","namespace":"shop","scope":"WorkloadSelector","action":"Deny","rules":[[[` +
		`{"namespaces":[{"Exact":"a"},{"Prefix":"b"},{"Suffix":"c"}],"notPrincipals":[{"Presence":{}},{"Exact":""}],` +
		`"notServiceAccounts":[{"namespace":"shop","serviceAccount":"web"}],"sourceIps":["10.0.0.0/8"],"notDestinationPorts":[80]}]],[]]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

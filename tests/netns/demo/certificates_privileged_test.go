// SPDX-License-Identifier: Apache-2.0

package demo_test

import (
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/testutil"
)

// TestCertificatesPage is an operator who types every command of docs/operations/certificates.md into the demo.
func TestCertificatesPage(t *testing.T) {
	testutil.Privileged(t)
	u := newUser(t)
	t.Cleanup(func() { u.stops(t) })
	if out, err := u.types("build/bin/warren-netns demo", "", time.Minute); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	u.follows("../../../docs/operations/certificates.md", []step{
		{part: "DIR="}, {part: "LOGS="}, {part: "CA="}, {part: "NEW="},
		{part: "openssl req", shows: ""},
		{part: "cat $NEW/ca.pem"},
		{part: "warren_trust_root", shows: "}"},
		{part: "install"},
		{part: "signs with", shows: `subject="CN=next"`},
		{part: "warren_certificates", shows: "warren_certificates{root="},
		{part: "rm $CA/bundle.pem"},
		{part: "grep -c", shows: "1\n"},
		{part: "crl.cnf"}, {part: "index"}, {part: "-gencrl"},
		{part: "warren_crl_", shows: "warren_crl_revoked_certificates 1\n"},
	})
}

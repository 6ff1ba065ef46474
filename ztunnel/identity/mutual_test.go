// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

// TestMutual wants of two ends in one process what a handshake would want of them.
func TestMutual(t *testing.T) {
	ck := newClock()
	a := newAuthority(t, ck.now)
	roots := fixedRoots(a.pem())
	s := newStore(t, a, roots, ck.now)
	s.Want(sa("client"))
	s.Want(sa("server"))
	mutual := func(client, server mesh.Identity, expected ...string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := s.Mutual(ctx, client, server, expected)
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	still, err := s.Mutual(ctx, sa("client"), sa("server"), []string{sa("other").String(), sa("server").String()})
	if err == nil {
		err = still()
	}
	if err != nil {
		t.Fatalf("waiting for both certificates: %v", err)
	}
	foreign := sa("client")
	foreign.TrustDomain = "elsewhere.example"
	s.Want(foreign)
	eventually(t, "the other domain's certificate", func() bool { return info(s, foreign).Serial != "" })
	for name, tt := range map[string]struct {
		err  error
		want reason.Reason
	}{
		"a client without certificate": {mutual(sa("nobody"), sa("server"), sa("server").String()), reason.NoCertificate},
		"a server without certificate": {mutual(sa("client"), sa("nobody"), sa("nobody").String()), reason.NoCertificate},
		"another server than expected": {mutual(sa("client"), sa("server"), sa("other").String()), reason.IdentityMismatch},
		"none expected":                {mutual(sa("client"), sa("server")), reason.IdentityMismatch},
		"another trust domain":         {mutual(foreign, sa("server"), sa("server").String()), reason.IdentityMismatch},
	} {
		if got := ReasonOf(tt.err); tt.err == nil || got != tt.want {
			t.Errorf("%s: got %v (%v), want %v", name, got, tt.err, tt.want)
		}
	}
	b := newAuthority(t, ck.now)
	other, err := parseBundle(b.pem())
	if err != nil {
		t.Fatal(err)
	}
	first := roots.current.Swap(other)
	if err := mutual(sa("client"), sa("server"), sa("server").String()); ReasonOf(err) != reason.TLSFailure {
		t.Errorf("with other roots: got %v, want TLS_FAILURE", err)
	}
	if err := still(); ReasonOf(err) != reason.PolicyChanged {
		t.Errorf("what was proven before, with other roots: got %v, want POLICY_CHANGED", err)
	}
	roots.current.Store(first)
	if err := mutual(sa("client"), sa("server"), sa("server").String()); err != nil {
		t.Errorf("with the first roots again: %v", err)
	}
	a.set(func(a *authority) {
		a.hook = func(ctx context.Context, _ mesh.Identity) error { <-ctx.Done(); return ctx.Err() }
	})
	ck.advance(30 * time.Hour)
	if err := mutual(sa("client"), sa("server"), sa("server").String()); ReasonOf(err) != reason.NoCertificate {
		t.Errorf("with certificates that expired: got %v, want NO_CERTIFICATE", err)
	}
	if err := still(); err != nil {
		t.Errorf("what was proven before they expired: %v, want it to live on", err)
	}
}

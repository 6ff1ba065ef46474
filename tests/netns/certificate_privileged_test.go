// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/tests/intruder"
	"github.com/warren-mesh/warren/tests/testutil"
)

// TestWhoGetsACertificate asks the real control: a node gets certificates for service accounts of its own enrolled pods
// and no others, and who proves no node gets none at all. Every refusal is in control's log and metrics by its word.
func TestWhoGetsACertificate(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	stranger := s.Node("b").Pod("stranger", ServiceAccount("stranger"))
	token := s.Node("a").Token()
	foreign := account("app", "client")
	foreign.TrustDomain = "elsewhere.example"
	tests := []struct {
		name, token string
		from        *Pod
		id          mesh.Identity
		code        codes.Code
		reason      string
	}{
		{"a service account of the other node's pod", token, stranger, account("app", "far"), codes.PermissionDenied, "NOT_ON_NODE"},
		{"a service account without a pod", token, stranger, account("app", "nobody"), codes.PermissionDenied, "NOT_ON_NODE"},
		{"the same name in another namespace", token, stranger, account("default", "client"), codes.PermissionDenied, "NOT_ON_NODE"},
		{"a pod outside the mesh", s.Node("b").Token(), stranger, account("default", "stranger"), codes.PermissionDenied, "NOT_ON_NODE"},
		{"control's own", token, stranger, account(systemNamespace, "warren-control"), codes.PermissionDenied, "NOT_ON_NODE"},
		{"another trust domain", token, stranger, foreign, codes.PermissionDenied, "FOREIGN_TRUST_DOMAIN"},
		{"a wrong token", strings.ToLower(token), stranger, account("app", "client"), codes.Unauthenticated, "NODE_UNPROVEN"},
		{"half a token", token[:len(token)/2], stranger, account("app", "client"), codes.Unauthenticated, "NODE_UNPROVEN"},
		{"an unenrolled pod without a token", "", stranger, account("app", "client"), codes.Unauthenticated, "NODE_UNPROVEN"},
		{"an enrolled pod without a token, its own account", "", s.client, account("app", "client"), codes.Unauthenticated, "NODE_UNPROVEN"},
	}
	refused := func(reason string) float64 {
		page, _, err := s.Control().Pod.Get("http://localhost:15020/metrics")
		if err != nil {
			t.Fatal(err)
		}
		return metric(page, "warren_ca_requests_refused_total", fmt.Sprintf("reason=%q", reason))
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before, logged := refused(tt.reason), len(s.Control().Output())
			_, err := obtain(t, tt.from, tt.token, tt.id)
			if status.Code(err) != tt.code || !strings.Contains(err.Error(), tt.reason) {
				t.Fatalf("got %v, want %s %s", err, tt.code, tt.reason)
			}
			if after := refused(tt.reason); after != before+1 {
				t.Errorf("metric went from %v to %v", before, after)
			}
			testutil.Eventually(t, told, "control logs the refusal", func() bool {
				return strings.Contains(s.Control().Output()[logged:], "reason="+tt.reason)
			})
		})
	}
	t.Run("a node for its own pod", func(t *testing.T) {
		cert, err := obtain(t, stranger, token, account("app", "client"))
		if err != nil {
			t.Fatal(err)
		}
		// And it is good: the far ztunnel takes it for the client.
		tunnel := tunnelTo(t, stranger, s.far.IPv4, cert)
		if got := intruder.Connect(t, tunnel, s.far.Addr("tcp4", 8080).String()); got != 200 {
			t.Errorf("CONNECT with it: status %d, want 200", got)
		}
	})
	t.Run("no longer once its last pod is gone", func(t *testing.T) {
		s.client.Delete()
		testutil.Eventually(t, told, "control refuses", func() bool {
			_, err := obtain(t, stranger, token, account("app", "client"))
			return status.Code(err) == codes.PermissionDenied && strings.Contains(err.Error(), "NOT_ON_NODE")
		})
	})
	for _, secret := range []string{token, s.Node("b").Token()} {
		if strings.Contains(s.Control().Output(), secret) {
			t.Error("a token stands in control's log")
		}
	}
}

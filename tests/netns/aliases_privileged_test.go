// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/intruder"
	"github.com/warren-mesh/warren/tests/testutil"
)

// aliased is the spine with a stranger, who has certificates of the mesh's own authority in any name.
type aliased struct {
	*spine
	stranger *Pod
	heard    map[*Pod]*atomic.Int32
}

// in is an account of namespace app in a trust domain.
func in(trustDomain, name string) string {
	id := account("app", name)
	id.TrustDomain = trustDomain
	return id.String()
}

func (a *aliased) policy(action, source string) {
	a.Apply("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: guard, namespace: app}\n" +
		"spec: {action: " + action + ", rules: [{from: [{source: {" + source + "}}]}]}\n")
}

func (a *aliased) certificate(t *testing.T, id string) *tls.Certificate {
	return meshSigner(t, a.Mesh).Certificate(t, id, nil)
}

// status is what a server's ztunnel answers a client with that identity; 0 when it ends the handshake.
func (a *aliased) status(t *testing.T, server *Pod, id string) int {
	t.Helper()
	c, err := shake(t, a.stranger, server.IPv4, a.certificate(t, id))
	if err == nil { // TLS 1.3: the client is done before the server has looked at its certificate
		var n int
		n, err = c.Read(make([]byte, 1)) // the server's SETTINGS, or an alert
		if n == 1 {
			err = nil
		}
	}
	if err != nil {
		return 0
	}
	c.Close()
	return intruder.Connect(t, tunnelTo(t, a.stranger, server.IPv4, a.certificate(t, id)), server.Addr("tcp4", 7000).String())
}

// wants has servers of both nodes answer a client of that identity so, from soon on, and say why; policy is named where one
// refuses. Of one that is refused the application hears nothing.
func (a *aliased) wants(t *testing.T, id, reason, policy string) {
	t.Helper()
	want := map[string]int{"TUNNEL": 200, "IDENTITY_MISMATCH": 0}
	status, sure := want[reason]
	if !sure {
		status = 401
	}
	for _, server := range []*Pod{a.near, a.far} {
		testutil.Eventually(t, told, fmt.Sprintf("%s answers %s with %d", server, id, status), func() bool { return a.status(t, server, id) == status })
		e, before := witness(t, server.Node), a.heard[server].Load()
		if got := a.status(t, server, id); got != status {
			t.Errorf("%s answered %s with %d, then with %d", server, id, status, got)
		}
		parts := []string{"src.workload=stranger"}
		if status != 0 {
			parts = append(parts, "src.identity="+id, "dst.workload="+server.Name)
		}
		if policy != "" {
			parts = append(parts, "policy="+policy)
		}
		if status == 200 {
			e.line(append(parts, "direction=inbound", fmt.Sprintf("dst.hbone_addr=%s", server.Addr("tcp4", 7000)))...)
			continue
		}
		e.ended("destination", reason, append(parts, "bytes_sent=0", "bytes_recv=0")...)
		if n := a.heard[server].Load() - before; n != 0 {
			t.Errorf("%s: the application accepted %d connections of %s", server, n, id)
		}
	}
}

// TestTrustDomainAliases: who has an identity of an alias is met by what policies say of the mesh's own, for as long as the
// MeshConfig names it. Whose trust domain it does not name gets in nowhere, whatever the policies say.
func TestTrustDomainAliases(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	a := &aliased{s, s.Node("a").Pod("stranger"), map[*Pod]*atomic.Int32{s.near: count(t, s.near, 7000), s.far: count(t, s.far, 7000)}}
	const (
		own, old, third = "cluster.local", "old.example", "third.example"
		mismatch, guard = "IDENTITY_MISMATCH", "app/guard"
	)
	// A server whose node the test plays: what the mesh's clients take for it.
	victim := s.Node("c").Pod("victim", In("app"), ServiceAccount("victim"))
	server := newImpostor(t, victim)
	server.cert.Store(a.certificate(t, in(old, "victim")))
	publishCaptured(t, victim)
	call := func() error {
		_, _, err := talk(t, s.client, "tcp4", victim.Addr("tcp4", 8080).String(), "x")
		return err
	}

	a.policy("ALLOW", "principals: ["+strings.TrimPrefix(in(own, "client"), "spiffe://")+"]")
	t.Run("without the alias", func(t *testing.T) {
		a.wants(t, in(own, "client"), "TUNNEL", "")
		a.wants(t, in(own, "other"), "POLICY_NO_ALLOW", guard)
		a.wants(t, in(old, "client"), mismatch, "")
		e := witness(t, s.client.Node)
		if err := call(); !isReset(err) {
			t.Errorf("a server of the old trust domain: %v, want a reset", err)
		}
		e.ended("source", mismatch, "src.workload=client", "dst.workload=victim")
	})
	t.Run("a policy that names it is no alias", func(t *testing.T) {
		a.policy("ALLOW", "principals: ["+strings.TrimPrefix(in(old, "client"), "spiffe://")+"]")
		a.wants(t, in(own, "client"), "POLICY_NO_ALLOW", guard)
		a.wants(t, in(old, "client"), mismatch, "")
		a.policy("ALLOW", "principals: ["+strings.TrimPrefix(in(own, "client"), "spiffe://")+"]")
		a.wants(t, in(own, "client"), "TUNNEL", "")
	})

	s.meshConfig("{trustDomainAliases: [" + old + "]}")
	t.Run("ALLOW", func(t *testing.T) {
		a.wants(t, in(old, "client"), "TUNNEL", "")
		a.wants(t, in(own, "client"), "TUNNEL", "")
		a.wants(t, in(old, "other"), "POLICY_NO_ALLOW", guard)
		a.wants(t, in(own, "other"), "POLICY_NO_ALLOW", guard)
		a.wants(t, in(third, "client"), mismatch, "")
		a.wants(t, in("very."+old, "client"), mismatch, "")
		e := witness(t, s.far.Node)
		c, err := shake(t, a.stranger, s.far.IPv4, meshSigner(t, s.Mesh).Foreign(t).Certificate(t, in(old, "client"), nil))
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		var alert *net.OpError
		if !errors.As(err, &alert) || alert.Op != "remote error" {
			t.Errorf("of another authority: %v, want a TLS alert", err)
		}
		e.ended("destination", "TLS_FAILURE", fmt.Sprintf("src.addr=%s", c.LocalAddr()))
		if err := call(); err != nil {
			t.Errorf("a server of the alias: %v", err)
		}
	})
	t.Run("DENY", func(t *testing.T) {
		a.policy("DENY", "principals: ["+strings.TrimPrefix(in(own, "client"), "spiffe://")+"]")
		a.wants(t, in(old, "client"), "POLICY_DENY", guard)
		a.wants(t, in(own, "client"), "POLICY_DENY", guard)
		a.wants(t, in(old, "other"), "TUNNEL", "")
		a.wants(t, in(third, "other"), mismatch, "")
	})
	t.Run("DENY of all others", func(t *testing.T) {
		a.policy("DENY", "notPrincipals: ["+strings.TrimPrefix(in(own, "client"), "spiffe://")+"]")
		a.wants(t, in(old, "other"), "POLICY_DENY", guard)
		a.wants(t, in(old, "client"), "TUNNEL", "")
		a.wants(t, in(own, "client"), "TUNNEL", "")
	})
	t.Run("DENY that names the alias", func(t *testing.T) {
		a.policy("DENY", "principals: ["+strings.TrimPrefix(in(old, "client"), "spiffe://")+"]")
		a.wants(t, in(own, "client"), "POLICY_DENY", guard)
		a.wants(t, in(old, "client"), "POLICY_DENY", guard)
		a.wants(t, in(own, "other"), "TUNNEL", "")
	})

	t.Run("taken back", func(t *testing.T) {
		a.policy("ALLOW", "principals: ["+strings.TrimPrefix(in(own, "client"), "spiffe://")+"]")
		a.wants(t, in(old, "client"), "TUNNEL", "")
		tunnel := tunnelTo(t, a.stranger, s.far.IPv4, a.certificate(t, in(old, "client")))
		if got := intruder.Connect(t, tunnel, s.far.Addr("tcp4", 7000).String()); got != 200 {
			t.Fatalf("status %d, want 200", got)
		}
		live := openEcho(t, s.client, "tcp4", "far:80")
		defer live.Close()
		s.meshConfig("{}")
		select {
		case <-tunnel.Done():
		case <-time.After(told):
			t.Error("the tunnel of before lives on")
		}
		a.wants(t, in(old, "client"), mismatch, "")
		a.wants(t, in(old, "other"), mismatch, "")
		a.wants(t, in(own, "client"), "TUNNEL", "")
		a.wants(t, in(own, "other"), "POLICY_NO_ALLOW", guard)
		if err := ping(live, "still here"); err != nil {
			t.Errorf("a connection within the mesh's own trust domain: %v", err)
		}
		testutil.Eventually(t, told, "a server of the old trust domain is refused", func() bool { return isReset(call()) })
	})
}

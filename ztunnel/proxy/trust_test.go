// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel/identity"
)

// trust has every node trust these authorities, the first being the one that signs, at once.
func (m *testMesh) trust(signer *authority, others ...*authority) {
	m.t.Helper()
	m.trustAt([]*node{m.near, m.far}, signer, others...)
}

// trustAt has only some nodes hear of it; the others stay with what all trusted until now.
func (m *testMesh) trustAt(nodes []*node, signer *authority, others ...*authority) {
	m.t.Helper()
	was := m.ca.bundle()
	for _, n := range []*node{m.near, m.far} {
		if !slices.Contains(nodes, n) {
			n.trusts.Store(&was)
		}
	}
	all := signer.pem
	for _, o := range others {
		all = append(all[:len(all):len(all)], o.pem...)
	}
	m.ca.roots.Store(&all)
	m.ca.next.Store(signer)
	for _, n := range nodes {
		if err := n.roots.Refresh(m.t.Context()); err != nil {
			m.t.Fatal(err)
		}
	}
}

// moved waits until all certificates are of the authority.
func (m *testMesh) moved(to *authority) {
	m.t.Helper()
	sum := sha256.Sum256(to.cert.Raw)
	for _, n := range []*node{m.near, m.far} {
		eventually(m.t, n.name+" has certificates of the new root alone", func() bool {
			return !slices.ContainsFunc(n.ids.Certificates(), func(i identity.Info) bool {
				return !strings.HasPrefix(hex.EncodeToString(sum[:]), cmp.Or(i.Root, "none"))
			})
		})
	}
}

// shortLived is a pair whose certificates move to another root within seconds.
func shortLived(t *testing.T) (*testMesh, *testPod) {
	m := newMesh(t)
	m.ca.ttl = 30 * time.Second
	client := m.pod(m.near, "client", clientAddr)
	m.pod(m.far, "web", serverAddr)
	m.echo(serverPort)
	return m, client
}

// Roots are exchanged under live connections: as long as both are trusted, nothing ends; new streams move to tunnels
// of the new root; and once the old one goes, so does what it had proven, at both ends and with a word for it.
func TestRootsAreExchangedUnderLiveConnections(t *testing.T) {
	m, client := shortLived(t)
	old := live(t, client)
	next := newAuthority(t)
	m.trust(m.ca, next)
	alive(t, old)
	m.trust(next, m.ca)
	m.moved(next)
	alive(t, old)
	eventually(t, "the old tunnel takes nothing new", func() bool { return m.near.proxy.pool.Connections() == 0 })
	young := live(t, client)
	m.trust(next)
	wantReset(t, "client", old)
	alive(t, young)
	alive(t, live(t, client))
	eventually(t, "the end that was first says why", func() bool { // to the other the tunnel is lost
		return slices.ContainsFunc(append(m.near.log.all(), m.far.log.all()...), func(r map[string]any) bool { return r["reason"] == "POLICY_CHANGED" })
	})
}

// Pooled tunnels that carry nothing go as well.
func TestIdleTunnelsAreJudgedToo(t *testing.T) {
	m, client, _ := pair(t)
	m.echo(serverPort)
	roundTrip(t, client.dial(serverPort), "x")
	if n := m.near.proxy.pool.Connections(); n != 1 {
		t.Fatalf("%d tunnels", n)
	}
	next := newAuthority(t)
	m.trust(next)
	eventually(t, "the tunnel ends", func() bool { return m.near.proxy.pool.Connections() == 0 })
	m.moved(next)
	roundTrip(t, client.dial(serverPort), "x")
}

// The client's node judges by itself, whatever the server's has heard.
func TestTheClientsNodeJudgesAlone(t *testing.T) {
	t.Run("what its root proved ends", func(t *testing.T) {
		m, client, _ := pair(t)
		m.echo(serverPort)
		c := live(t, client)
		m.trustAt([]*node{m.near}, newAuthority(t))
		wantReset(t, "client", c)
		m.near.logged(map[string]any{"reason": "POLICY_CHANGED", "direction": "outbound"})
		if n := m.near.proxy.pool.Connections(); n != 0 {
			t.Errorf("%d tunnels are left in the pool", n)
		}
	})
	t.Run("what was made with a certificate of the old root takes nothing new", func(t *testing.T) {
		m, client := shortLived(t)
		c := live(t, client)
		next := newAuthority(t)
		m.trust(m.ca, next)
		m.trustAt([]*node{m.near}, next, m.ca)
		eventually(t, "the tunnel leaves the pool", func() bool { return m.near.proxy.pool.Connections() == 0 })
		alive(t, c)
	})
}

// An alias that is taken back ends the tunnels of peers that have it.
func TestAnAliasIsTakenBack(t *testing.T) {
	m, client, _ := pair(t, func(c *Config) {
		c.TrustDomain = map[bool]string{true: "old.example", false: mesh.DefaultTrustDomain}[c.Node == "near"]
	})
	m.echo(serverPort)
	aliases := func(list ...string) {
		c := m.store.Snapshot().Config().Clone()
		c.TrustDomainAliases = list
		m.store.Apply(mesh.PutConfig{Config: c})
	}
	aliases("old.example")
	c := live(t, client)
	aliases()
	wantReset(t, "client", c)
	m.far.logged(map[string]any{"reason": "POLICY_CHANGED", "direction": "inbound", "src.identity": "spiffe://old.example/ns/shop/sa/client"})
	wantReset(t, "client", client.dial(serverPort))
}

// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/testutil"
)

// TestRenewal lets certificates reach half their life, a minute being the shortest one control gives: they are
// replaced under a live connection, which goes on, and new connections use the new one.
func TestRenewal(t *testing.T) {
	testutil.Privileged(t)
	t.Parallel() // it waits most of its time
	s := newSpine(t, Options{ControlFlags: []string{"--leaf-ttl", "1m"}})
	live := openEcho(t, s.client, "tcp4", "far:80")
	defer live.Close()
	first := map[string]string{}
	for _, n := range s.Nodes() {
		first[n.Name] = serial(t, n, identityOf(n))
		if first[n.Name] == "" {
			t.Fatalf("node %s has no certificate for %s", n.Name, identityOf(n))
		}
	}
	for _, n := range s.Nodes() {
		beats := 0
		testutil.Eventually(t, 50*time.Second, "node "+n.Name+" renews its certificate", func() bool {
			if beats++; beats%100 != 0 { // a dump every half second
				return false
			}
			if err := ping(live, fmt.Sprint("beat ", beats)); err != nil {
				t.Fatalf("the live connection: %v", err)
			}
			now := serial(t, n, identityOf(n))
			return now != "" && now != first[n.Name]
		})
	}
	if err := ping(live, "renewed"); err != nil {
		t.Errorf("the live connection after renewal: %v", err)
	}
	if _, _, err := talk(t, s.client, "tcp4", "far:80", "x"); err != nil {
		t.Errorf("a new connection after renewal: %v", err)
	}
}

// identityOf is an identity the spine has on the node.
func identityOf(n *Node) string {
	return "spiffe://cluster.local/ns/app/sa/" + map[string]string{"a": "client", "b": "far"}[n.Name]
}

// serial reads from ztunnel's dump which certificate it holds for an identity.
func serial(t *testing.T, n *Node, identity string) string {
	t.Helper()
	body, status, err := n.System.Ztunnel.Pod.Get("http://localhost:15000/config_dump")
	if err != nil || status != 200 {
		t.Fatalf("dump of node %s: status %d, %v", n.Name, status, err)
	}
	var dump struct {
		Certificates []struct {
			Identity  string
			CertChain []struct{ SerialNumber string }
		}
	}
	if err := json.Unmarshal([]byte(body), &dump); err != nil {
		t.Fatal(err)
	}
	for _, c := range dump.Certificates {
		if c.Identity == identity && len(c.CertChain) > 0 {
			return c.CertChain[0].SerialNumber
		}
	}
	return ""
}

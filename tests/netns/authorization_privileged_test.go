// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/mesh/manifests"
	"github.com/warren-mesh/warren/tests/testutil"
)

// guarded is the spine with those who want in to its server "far": the client, another account of its namespace,
// an account of another namespace, and a pod outside the mesh.
type guarded struct {
	*spine
	other, back, outsider *Pod
	heard                 *atomic.Int32 // by port 7000 of far
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	s := newSpine(t, Options{})
	s.Namespace("back", Enrolled())
	g := &guarded{spine: s,
		other:    s.Node("a").Pod("other", In("app"), ServiceAccount("other")),
		back:     s.Node("a").Pod("back", In("back"), ServiceAccount("back")),
		outsider: s.Node("a").Pod("outsider"),
		heard:    count(t, s.far, 7000),
	}
	s.WaitCaptured(g.other, "true")
	s.WaitCaptured(g.back, "true")
	s.waitKnown(t, s.Node("b"), "back", true)
	for _, p := range []*Pod{g.client, g.other, g.back, g.outsider} {
		g.lets(t, p, 7000)
	}
	return g
}

// policy applies an AuthorizationPolicy app/guard.
func (g *guarded) policy(spec string) { g.object("AuthorizationPolicy", spec) }

func (g *guarded) object(kind, spec string) {
	g.Apply(fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: %s\nmetadata: {name: guard, namespace: app}\nspec: %s\n", kind, spec))
}

func (g *guarded) try(t *testing.T, p *Pod, port uint16) error {
	t.Helper()
	_, _, err := end(t, p, g.far.Addr("tcp4", port).String())
	return err
}

// lets wants the pod to get through, from soon on.
func (g *guarded) lets(t *testing.T, p *Pod, port uint16) {
	t.Helper()
	testutil.Eventually(t, told, fmt.Sprintf("%s gets through to port %d", p, port), func() bool { return g.try(t, p, port) == nil })
}

// refuses wants the pod to be refused, from soon on, over both families, at once, with the reason and the policy in
// far's access log and metrics, and nothing to reach the application.
func (g *guarded) refuses(t *testing.T, p *Pod, port uint16, reason, policy string) {
	t.Helper()
	testutil.Eventually(t, told, fmt.Sprintf("%s is refused on port %d", p, port), func() bool { return isReset(g.try(t, p, port)) })
	before := g.heard.Load()
	for _, network := range []string{"tcp4", "tcp6"} {
		b := witness(t, g.far.Node)
		_, took, err := end(t, p, g.far.Addr(network, port).String())
		if !isReset(err) || took > heldFor-time.Second {
			t.Errorf("%s, %s: got %v after %v, want a reset at once", p, network, err, took)
		}
		b.ended("destination", reason, "src.workload="+p.Name, "dst.workload=far", "policy="+policy, "bytes_sent=0", "bytes_recv=0")
	}
	if now := g.heard.Load(); now != before {
		t.Errorf("the application accepted %d connections", now-before)
	}
}

// condition is what is published about an object.
func (g *guarded) condition(t *testing.T, object string) string {
	t.Helper()
	all, err := manifests.ReadConditions(g.Manifests())
	if err != nil {
		t.Log(err)
	}
	return all[object][kube.ConditionAccepted].Message
}

const onlyClient = `{selector: {matchLabels: {app: far}}, rules: [{from: [{source: {principals: [cluster.local/ns/app/sa/client]}}]}]}`

// TestAuthorization lets in and refuses by identity, namespace and port, and follows every change of policy.
func TestAuthorization(t *testing.T) {
	testutil.Privileged(t)
	g := newGuarded(t)
	const guard = "app/guard"
	t.Run("ALLOW by principal", func(t *testing.T) {
		g.policy(onlyClient)
		g.refuses(t, g.other, 7000, "POLICY_NO_ALLOW", guard)
		g.refuses(t, g.outsider, 7000, "POLICY_NO_ALLOW", guard)
		g.lets(t, g.client, 7000)
		if _, _, err := talk(t, g.other, "tcp4", g.near.Addr("tcp4", 8080).String(), "x"); err != nil {
			t.Errorf("a pod that is not selected: %v", err)
		}
	})
	t.Run("a change ends what it no longer allows, and only that", func(t *testing.T) {
		live, kept := openEcho(t, g.client, "tcp4", "far:80"), openEcho(t, g.client, "tcp4", "near:80")
		b := witness(t, g.far.Node)
		g.policy(`{selector: {matchLabels: {app: far}}, rules: [{from: [{source: {serviceAccounts: [other]}}]}]}`)
		if err := ending(live, told); !isReset(err) {
			t.Errorf("the connection ended with %v, want a reset", err)
		}
		b.ended("destination", "POLICY_CHANGED", "src.workload=client", "dst.workload=far", "policy="+guard)
		if err := ping(kept, "still here"); err != nil {
			t.Errorf("another server's connection: %v", err)
		}
		g.lets(t, g.other, 7000)
		g.refuses(t, g.client, 7000, "POLICY_NO_ALLOW", guard)
	})
	t.Run("labels decide who is selected", func(t *testing.T) {
		g.policy(`{selector: {matchLabels: {app: near}}, rules: []}`)
		g.lets(t, g.client, 7000)
		g.policy(`{selector: {matchLabels: {app: far}}}`)
		g.refuses(t, g.client, 7000, "POLICY_NO_ALLOW", guard)
	})
	t.Run("a wrong policy leaves the last good one", func(t *testing.T) {
		g.policy(`{rules: [{from: [{source: {ipBlocks: [10.0.0.0/99]}}]}]}`)
		testutil.Eventually(t, told, "the condition names the field", func() bool {
			return containsAny(g.condition(t, "AuthorizationPolicy app/guard"), "spec.rules[0].from[0].source.ipBlocks[0]")
		})
		g.refuses(t, g.client, 7000, "POLICY_NO_ALLOW", guard)
	})
	t.Run("removed", func(t *testing.T) {
		g.Remove("AuthorizationPolicy", "app", "guard")
		for _, p := range []*Pod{g.client, g.other, g.back, g.outsider} {
			g.lets(t, p, 7000)
		}
	})
	t.Run("DENY by namespace", func(t *testing.T) {
		g.policy(`{action: DENY, rules: [{from: [{source: {namespaces: [back]}}]}]}`)
		g.refuses(t, g.back, 7000, "POLICY_DENY", guard)
		g.lets(t, g.client, 7000)
		g.lets(t, g.outsider, 7000)
	})
	t.Run("DENY by port", func(t *testing.T) {
		g.policy(`{action: DENY, rules: [{to: [{operation: {ports: ["7000"]}}]}]}`)
		g.refuses(t, g.client, 7000, "POLICY_DENY", guard)
		g.lets(t, g.client, 8080)
		g.lets(t, g.back, 8080)
	})
	t.Run("AUDIT and dry run only tell", func(t *testing.T) {
		g.policy(`{action: AUDIT, rules: [{from: [{source: {namespaces: [back]}}]}]}`)
		g.Apply("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: try, namespace: app, annotations: {istio.io/dry-run: \"true\"}}\nspec: {}\n---\n" +
			"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: try-deny, namespace: app, annotations: {istio.io/dry-run: \"true\"}}\nspec: {action: DENY, rules: [{}]}\n")
		b := witness(t, g.far.Node)
		testutil.Eventually(t, told, "the log names both", func() bool {
			return g.try(t, g.back, 7000) == nil && len(b.lines("src.workload=back", "policy_dry_run=app/try-deny", "policy_audit=app/guard")) > 0
		})
		g.lets(t, g.client, 7000)
	})
}

// TestStrictBySelectorAndPort: a PeerAuthentication holds the pods it selects to mutual TLS, or some of their ports.
func TestStrictBySelectorAndPort(t *testing.T) {
	testutil.Privileged(t)
	g := newGuarded(t)
	g.object("PeerAuthentication", `{selector: {matchLabels: {app: far}}, mtls: {mode: STRICT}}`)
	g.refuses(t, g.outsider, 7000, "STRICT_MTLS", "warren-system/istio_converted_static_strict")
	g.lets(t, g.client, 7000)
	if _, _, err := talk(t, g.outsider, "tcp4", g.near.Addr("tcp4", 8080).String(), "x"); err != nil {
		t.Errorf("a pod that is not selected: %v", err)
	}
	g.object("PeerAuthentication", `{selector: {matchLabels: {app: far}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {7000: {mode: STRICT}}}`)
	g.lets(t, g.outsider, 8080)
	g.refuses(t, g.outsider, 7000, "STRICT_MTLS", "app/converted_peer_authentication_guard")
	g.object("PeerAuthentication", `{selector: {matchLabels: {app: far}}, mtls: {mode: STRICT}, portLevelMtls: {7000: {mode: DISABLE}}}`)
	g.lets(t, g.outsider, 7000)
	g.refuses(t, g.outsider, 8080, "STRICT_MTLS", "app/converted_peer_authentication_guard")
	g.lets(t, g.client, 7000)
	g.lets(t, g.client, 8080)
}

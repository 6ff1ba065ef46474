// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/warren-mesh/warren/control/ca"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/tests/kubeapi"
)

// realToken is a token of the account, bound to a pod of it that it makes.
func realToken(t *testing.T, r *kubeapi.Real, account, pod, node, audience string) (token, uid string) {
	t.Helper()
	var p struct{ Metadata struct{ UID string } }
	if err := json.Unmarshal(r.Do("POST", "/api/v1/namespaces/warren-system/pods",
		fmt.Sprintf(`{metadata: {name: %s}, spec: {nodeName: %s, serviceAccountName: %s, containers: [{name: c, image: i}]}}`, pod, node, account)), &p); err != nil {
		t.Fatal(err)
	}
	var o struct{ Status struct{ Token string } }
	if err := json.Unmarshal(r.Do("POST", "/api/v1/namespaces/warren-system/serviceaccounts/"+account+"/token",
		fmt.Sprintf(`{spec: {audiences: [%q], boundObjectRef: {kind: Pod, apiVersion: v1, name: %s, uid: %s}}}`, audience, pod, p.Metadata.UID)), &o); err != nil {
		t.Fatal(err)
	}
	return o.Status.Token, p.Metadata.UID
}

// The API server's own tokens, reviewed by itself and, while it is away, by its keys.
func TestAgainstARealServer(t *testing.T) {
	r := kubeapi.StartReal(t)
	r.Do("POST", "/api/v1/namespaces", `{metadata: {name: warren-system}}`)
	for _, n := range []string{"a", "b"} {
		r.Do("POST", "/api/v1/nodes", fmt.Sprintf(`{metadata: {name: %s}}`, n))
	}
	for _, account := range []string{NodeServiceAccount, "other"} {
		r.Do("POST", "/api/v1/namespaces/warren-system/serviceaccounts", fmt.Sprintf(`{metadata: {name: %s}}`, account))
	}
	store := mesh.NewStore()
	prover, err := NewProver(ProverConfig{Client: r.Client(), Namespace: "warren-system", Snapshot: store.Snapshot, Log: discard})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := prover.issuer.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	good, uid := realToken(t, r, NodeServiceAccount, "node-a", "a", Audience)
	deleted, _ := realToken(t, r, NodeServiceAccount, "node-gone", "a", Audience)
	ordinary, _ := realToken(t, r, "other", "other", "a", Audience)
	foreign, _ := realToken(t, r, NodeServiceAccount, "node-b", "b", "https://kubernetes.default.svc.cluster.local")
	r.Do("DELETE", "/api/v1/namespaces/warren-system/pods/node-gone", `{gracePeriodSeconds: 0}`)
	for name, tt := range map[string]struct{ token, node string }{
		"a node pod's": {good, "a"}, "of a pod that is gone": {deleted, ""}, "another account's": {ordinary, ""}, "for the API server": {foreign, ""},
	} {
		node, err := prover.Prove(t.Context(), tt.token)
		if node != tt.node || (err == nil) != (tt.node != "") {
			t.Errorf("%s: proved %q, %v", name, node, err)
		}
		t.Logf("%s: %q, %v", name, node, err)
	}
	store.Apply(mesh.PutWorkload{Workload: &mesh.Workload{
		UID: "x", PodUID: uid, Namespace: "warren-system", Name: "node-a", ServiceAccount: NodeServiceAccount, Node: "a", Capture: mesh.Outside,
	}})

	e, err := NewElection(r.Client(), "warren-system", "replica", discard)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	go func() { _ = e.Run(ctx, func(context.Context) {}) }()
	eventually(t, "it leads", e.Leading)
	secret, err := NewSecret(r.Client(), "warren-system", e.Leading)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := OpenAuthority(ctx, ca.Config{Storage: secret, Log: discard})
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := NewBundle(BundleConfig{
		Client: r.Client(), Namespace: "warren-system", Term: e.Term,
		Snapshot: store.Snapshot, Namespaces: func() []string { return nil }, Log: discard,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := bundle.PublishTrust(ctx, authority.Trust()); err != nil {
		t.Fatal(err)
	}
	var cm struct{ Data map[string]string }
	if err := json.Unmarshal(r.Do("GET", "/api/v1/namespaces/warren-system/configmaps/"+BundleName, ""), &cm); err != nil || cm.Data[BundleKey] != string(authority.Trust().Roots) {
		t.Errorf("ConfigMap %v, %v", cm, err)
	}

	r.Down()
	fresh, err := NewProver(prover.cfg) // remembers no judgement
	if err != nil {
		t.Fatal(err)
	}
	fresh.issuer = prover.issuer
	if node, err := fresh.Prove(ctx, good); node != "a" || err != nil {
		t.Errorf("offline: %q, %v", node, err)
	}
	if node, err := fresh.Prove(ctx, deleted); err == nil {
		t.Errorf("offline, a pod that is not known: %q", node)
	}
	if err := authority.Rotate(); err == nil {
		t.Error("the Secret was read from a server that is away")
	}
}

// The issuer gets another name, and the API server goes on taking tokens of the one before.
func TestARealServersIssuerBefore(t *testing.T) {
	r := kubeapi.StartReal(t)
	r.Do("POST", "/api/v1/namespaces", `{metadata: {name: warren-system}}`)
	r.Do("POST", "/api/v1/nodes", `{metadata: {name: a}}`)
	r.Do("POST", "/api/v1/namespaces/warren-system/serviceaccounts", fmt.Sprintf(`{metadata: {name: %s}}`, NodeServiceAccount))
	token, uid := realToken(t, r, NodeServiceAccount, "node-a", "a", Audience)
	r.Down()
	const next = "https://issuer.after"
	r.Flags("--service-account-issuer="+next, "--service-account-jwks-uri="+next+"/openid/v1/jwks")
	r.Up()
	store := mesh.NewStore()
	store.Apply(mesh.PutWorkload{Workload: &mesh.Workload{
		UID: "x", PodUID: uid, Namespace: "warren-system", Name: "node-a", ServiceAccount: NodeServiceAccount, Node: "a", Capture: mesh.Outside,
	}})
	prover, err := NewProver(ProverConfig{Client: r.Client(), Namespace: "warren-system", Snapshot: store.Snapshot, Log: discard})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := prover.issuer.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if name, _, _ := prover.issuer.known(); name != next {
		t.Fatalf("the server is called %q, want %q: this test tests nothing", name, next)
	}
	if node, err := prover.Prove(t.Context(), token); node != "a" || err != nil {
		t.Errorf("proved %q, %v", node, err)
	}
	r.Down()
	fresh, err := NewProver(prover.cfg) // remembers no judgement
	if err != nil {
		t.Fatal(err)
	}
	fresh.issuer = prover.issuer
	if node, err := fresh.Prove(t.Context(), token); err == nil {
		t.Errorf("offline, of another issuer: %q", node)
	}
}

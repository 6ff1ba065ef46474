// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package informers

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/tests/kubeapi"
)

const pods = "/api/v1/namespaces/shop/pods"

func realPod(r *kubeapi.Real, name, node string, last int) (uid string) {
	var o struct{ Metadata struct{ UID string } }
	if err := json.Unmarshal(r.Do("POST", pods, fmt.Sprintf(`{metadata: {name: %s, labels: {app: cart}}, spec: {nodeName: %s, serviceAccountName: cart, containers: [{name: c, image: i}]}}`, name, node)), &o); err != nil {
		panic(err)
	}
	r.Do("PATCH", pods+"/"+name+"/status", fmt.Sprintf(`{status: {phase: Running, podIP: 10.1.0.%[1]d, podIPs: [{ip: 10.1.0.%[1]d}, {ip: "fd00:1::%[1]d"}], conditions: [{type: Ready, status: "True"}]}}`, last))
	return o.Metadata.UID
}

// The same against a real API server: what it streams, how it refuses, and what it does when it restarts.
func TestAgainstARealServer(t *testing.T) {
	r := kubeapi.StartReal(t)
	r.Do("POST", "/api/v1/namespaces", `{metadata: {name: shop, labels: {warren.dev/mesh: enabled}}}`)
	r.Do("POST", "/api/v1/nodes", `{metadata: {name: a, labels: {topology.kubernetes.io/zone: za}}, spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, "fd00:1::/64"]}}`)
	r.Do("POST", "/api/v1/namespaces/shop/services", `{metadata: {name: cart}, spec: {selector: {app: cart}, ipFamilyPolicy: RequireDualStack, ports: [{name: http, port: 80, targetPort: 8080}]}}`)
	uid1, uid2 := realPod(r, "cart-1", "a", 11), realPod(r, "cart-2", "b", 12)
	r.Do("POST", "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices", `
metadata: {name: cart-x, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.1.0.11], conditions: {ready: true}, targetRef: {kind: Pod, namespace: shop, name: cart-1, uid: `+uid1+`}}
- {addresses: [10.1.0.12], conditions: {ready: true}, targetRef: {kind: Pod, namespace: shop, name: cart-2, uid: `+uid2+`}}
`)
	dir := t.TempDir()
	s := &running{log: &logBuffer{}}
	s.start(t, r, keeping(dir, time.Minute))
	s.synced(t)
	snap := s.Store().Snapshot()
	if got := len(snap.Endpoints(cart)); got != 2 {
		t.Errorf("%d endpoints", got)
	}
	if c := snap.Config().ClusterCIDRs; len(c) != 4 {
		t.Errorf("cluster ranges: %v", c)
	}
	if v := snap.Service(cart); v == nil || len(v.Addresses) != 2 {
		t.Errorf("service %+v", v)
	}
	if w := snap.WorkloadByPod(uid1); w == nil || w.Zone != "za" || len(w.Addresses) != 2 || !w.Ready {
		t.Errorf("workload %+v", w)
	}
	for _, k := range s.Status().Kinds {
		if absent := slices.Contains([]string{"PeerAuthentication", "AuthorizationPolicy", "MeshConfig"}, k.Kind); k.Absent != absent || !k.Synced {
			t.Errorf("%+v", k)
		}
	}

	p, err := NewPublisher(r.Client(), "warren-agent", "a", slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	name := mesh.Name{Namespace: "shop", Name: "cart-1"}
	if err := p.PublishCaptured(t.Context(), name, "another-uid", "true"); err != nil {
		t.Errorf("another pod's uid: %v", err)
	}
	if out := string(r.Do("GET", pods+"/cart-1", "")); strings.Contains(out, kube.KeyCaptured) {
		t.Error("the annotation went to a pod with another uid")
	}
	if err := p.PublishCaptured(t.Context(), name, uid1, "true"); err != nil {
		t.Fatal(err)
	}
	s.wait(t, "the pod is captured", func(m *mesh.Snapshot) bool { return m.WorkloadByPod(uid1).Capture == mesh.Captured })
	if out := string(r.Do("GET", "/api/v1/namespaces/shop/events", "")); !strings.Contains(out, `"reason":"Captured"`) {
		t.Errorf("no Event: %s\n%s", out, s.log)
	}
	if err := p.PublishCaptured(t.Context(), name, uid1, ""); err != nil {
		t.Fatal(err)
	}
	s.wait(t, "the annotation is gone", func(m *mesh.Snapshot) bool { return m.WorkloadByPod(uid1).Capture != mesh.Captured })

	r.InstallPolicies()
	const policies = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies"
	eventually(t, "the new kind is served", func() bool {
		_, err := r.Try("POST", policies, `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: bad}, spec: {rules: [{from: [{source: {namspaces: [x]}}]}]}}`)
		return err == nil
	})
	r.Do("POST", policies, `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: "no"}, spec: {action: DENY, rules: [{from: [{source: {namespaces: [x]}}]}]}}`)
	deadline := time.Now().Add(40 * time.Second)
	for !hasPolicy("no")(s.Store().Snapshot()) && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	s.wait(t, "a policy of the kind that came later", hasPolicy("no"))
	if ps := s.Problems(); len(ps) != 1 {
		t.Fatalf("problems %+v", ps)
	}
	if err := p.PublishCondition(t.Context(), "AuthorizationPolicy shop/bad", kube.Condition{Type: kube.ConditionAccepted, Reason: kube.ReasonInvalid, Message: "m"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "our condition comes back", func() bool { return len(s.board.conditions()) == 1 })

	// The API server restarts: nothing is lost, and what happens then arrives.
	version := s.Store().Snapshot().Version()
	r.Down()
	eventually(t, "that is noticed", func() bool { return s.Status().Kinds[0].Error != "" })
	r.Up()
	uid3 := realPod(r, "cart-3", "a", 13)
	for deadline := time.Now().Add(40 * time.Second); s.Store().Snapshot().WorkloadByPod(uid3) == nil && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	after := s.wait(t, "the pod after the restart", func(m *mesh.Snapshot) bool { return m.WorkloadByPod(uid3) != nil })
	if !hasPolicy("no")(after) || after.WorkloadByPod(uid2) == nil {
		t.Error("the restart took something away")
	}
	t.Logf("%d steps over the restart", after.Version()-version)
	s.stop()

	// The agent restarts while the API server is away.
	r.Down()
	again := &running{log: &logBuffer{}}
	again.start(t, r, keeping(dir, 100*time.Millisecond))
	again.synced(t)
	if st := again.Status(); !st.Stale || again.Store().Snapshot().WorkloadByPod(uid3) == nil || !hasPolicy("no")(again.Store().Snapshot()) {
		t.Errorf("status %+v", st)
	}
	r.Up()
	for deadline := time.Now().Add(40 * time.Second); again.Status().Stale && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if again.Status().Stale {
		t.Errorf("still stale: %+v\n%s", again.Status(), again.log)
	}
}

// SPDX-License-Identifier: Apache-2.0

package informers

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/tests/kubeapi"
)

const meshConfigs = "warren.dev/v1alpha1/meshconfigs"

func putMeshConfig(s *kubeapi.Server, generation int64, spec map[string]any) {
	o := map[string]any{"metadata": map[string]any{"name": "default", "generation": generation}, "spec": spec}
	if old := s.Get(meshConfigs, "", "default"); old != nil {
		o["status"] = old["status"]
	}
	s.PutMap(meshConfigs, o)
}

func strictIs(want bool) func(*mesh.Snapshot) bool {
	return func(m *mesh.Snapshot) bool {
		w, name := m.WorkloadByPod("uid-cart-1"), mesh.Name{Namespace: mesh.DefaultRootNamespace, Name: mesh.MeshConfigStrict}
		return m.Config().MTLSStrict == want && (m.Policy(name) != nil) == want && w != nil && (len(w.Policies) == 1) == want
	}
}

// TestMeshConfigComesLater: the kind may be missing, and what it says outlasts a restart without the API server.
func TestMeshConfigComesLater(t *testing.T) {
	s := kubeapi.Start(t)
	world(s)
	dir := t.TempDir()
	r := follow(t, s, keeping(dir, time.Minute))
	r.synced(t)
	s.Install(meshConfigs, "MeshConfig")
	putMeshConfig(s, 1, map[string]any{"mtls": map[string]any{"mode": "STRICT"}})
	r.wait(t, "STRICT", strictIs(true))
	putMeshConfig(s, 2, map[string]any{"mtls": map[string]any{"mode": "PERMISSIVE"}, "drain": "11m"})
	eventually(t, "it is refused", func() bool { return len(r.Problems()) == 1 })
	if ps := r.Problems(); ps[0].Object != "MeshConfig default" || ps[0].Field != "spec.drain" || !strictIs(true)(r.Store().Snapshot()) {
		t.Errorf("problems %+v", ps)
	}
	putMeshConfig(s, 3, map[string]any{"mtls": map[string]any{"mode": "STRICT"}, "sameNodeTLS": true})
	r.wait(t, "corrected", func(m *mesh.Snapshot) bool { return m.Config().SameNodeTLS })
	r.stop()
	s.Down()

	r = follow(t, s, keeping(dir, 50*time.Millisecond))
	r.synced(t)
	if !r.Status().Stale || !strictIs(true)(r.Store().Snapshot()) {
		t.Errorf("STRICT did not outlast a restart without the API server: %+v", r.Store().Snapshot().Config())
	}
	s.Up()
	eventually(t, "the server is back", func() bool { return !r.Status().Stale })
	s.Delete(meshConfigs, "", "default")
	r.wait(t, "deleted", strictIs(false))
}

// TestMeshConfigSaysHowItStands: conditions, with the generation they are about.
func TestMeshConfigSaysHowItStands(t *testing.T) {
	s := kubeapi.Start(t)
	world(s)
	s.Install(meshConfigs, "MeshConfig")
	r := follow(t, s)
	r.synced(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.PublishProblems(ctx, publisher(t, s)) }()
	defer func() { cancel(); <-done }()
	var got []string
	stands := func(want ...string) {
		t.Helper()
		defer func() { // Wait does not return when it fails
			if t.Failed() {
				t.Logf("got %q, want %q; problems %+v", got, want, r.Problems())
			}
		}()
		s.Wait("conditions", func() bool {
			status, _ := s.Get(meshConfigs, "", "default")["status"].(map[string]any)
			got = []string{fmt.Sprint(status["observedGeneration"])}
			list, _ := status["conditions"].([]any)
			for _, c := range list {
				m := c.(map[string]any)
				got = append(got, fmt.Sprintf("%s %s %s %v", m["type"], m["status"], m["reason"], m["observedGeneration"]))
			}
			return cmp.Equal(got, want)
		})
	}
	putMeshConfig(s, 4, map[string]any{})
	stands("4", "Accepted True Accepted 4", "Applied True Applied 4")
	putMeshConfig(s, 5, map[string]any{"drain": "soon"})
	stands("5", "Accepted False Invalid 5", "Applied False Invalid 5")
	putMeshConfig(s, 6, map[string]any{"drain": "5s"})
	stands("6", "Accepted True Accepted 6", "Applied True Applied 6")
}

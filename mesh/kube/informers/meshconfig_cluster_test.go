// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package informers

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/tests/kubeapi"
)

// TestARealServerAndMeshConfig: the CustomResourceDefinition refuses what mesh/kube refuses, and names the field; it sets
// defaults; and what it lets in takes effect and has its status written.
func TestARealServerAndMeshConfig(t *testing.T) {
	r := kubeapi.StartReal(t)
	definition, err := os.ReadFile("../../../deploy/chart/warren/crds/meshconfigs.warren.dev.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := &running{log: &logBuffer{}}
	s.start(t, r)
	s.synced(t)
	r.Do("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", string(definition))
	const path = "/apis/warren.dev/v1alpha1/meshconfigs"
	object := func(name string, spec json.RawMessage) string {
		return fmt.Sprintf(`{"apiVersion": "warren.dev/v1alpha1", "kind": "MeshConfig", "metadata": {"name": %q}, "spec": %s}`, name, spec)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		if _, err = r.Try("GET", path, ""); err == nil || time.Now().After(deadline) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("../../../api/v1alpha1/testdata/specs.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var specs []struct {
		Name, Refused string
		Spec          json.RawMessage
	}
	if err := yaml.UnmarshalStrict(data, &specs); err != nil {
		t.Fatal(err)
	}
	for _, spec := range specs {
		b, err := r.Try("POST", path, object("default", spec.Spec))
		if err == nil {
			r.Do("DELETE", path+"/default", "")
		}
		switch {
		case spec.Refused == "" && err != nil:
			t.Errorf("%s: refused: %v", spec.Name, err)
		case spec.Refused != "" && (err == nil || !strings.Contains(string(b), spec.Refused)):
			t.Errorf("%s: got %v, want an error about %s: %s", spec.Name, err, spec.Refused, b)
		}
	}
	if b, err := r.Try("POST", path, object("mine", json.RawMessage("{}"))); err == nil || !strings.Contains(string(b), "named default") {
		t.Errorf("another name: %v: %s", err, b)
	}

	var made struct{ Spec map[string]any }
	if err := json.Unmarshal(r.Do("POST", path, object("default", json.RawMessage(`{"tracing": {}}`))), &made); err != nil {
		t.Fatal(err)
	}
	want := "map[accessLog:map[mode:All] mtls:map[mode:PERMISSIVE] sameNodeTLS:false tracing:map[samplePercent:1]]"
	if got := fmt.Sprint(made.Spec); got != want {
		t.Errorf("defaults: got %s, want %s", got, want)
	}
	p, err := NewPublisher(r.Client(), "warren-control", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.PublishProblems(t.Context(), p) }()
	r.Do("PATCH", path+"/default", `{"spec": {"mtls": {"mode": "STRICT"}}}`)
	ctx := time.Now().Add(40 * time.Second) // an absent kind is looked for again after a while
	for !s.Store().Snapshot().Config().MTLSStrict && time.Now().Before(ctx) {
		time.Sleep(10 * time.Millisecond)
	}
	s.wait(t, "STRICT", func(m *mesh.Snapshot) bool { return m.Config().MTLSStrict })
	eventually(t, "the status of generation 2", func() bool {
		var o struct {
			Status struct {
				ObservedGeneration int64
				Conditions         []struct{ Type, Status string }
			}
		}
		if json.Unmarshal(r.Do("GET", path+"/default", ""), &o) != nil || o.Status.ObservedGeneration != 2 {
			return false
		}
		return fmt.Sprint(o.Status.Conditions) == fmt.Sprintf("[{%s True} {%s True}]", kube.ConditionAccepted, kube.ConditionApplied) ||
			fmt.Sprint(o.Status.Conditions) == fmt.Sprintf("[{%s True} {%s True}]", kube.ConditionApplied, kube.ConditionAccepted)
	})
}

// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/cluster"
)

const (
	clusterVariable = "WARREN_E2E_CLUSTER"
	keepVariable    = "WARREN_E2E_KEEP"
	asIs            = "as-is" // value of keepVariable

	// atOnce is how many tests share the mesh at a time, if -parallel says nothing: most of a test's time is waiting for
	// kubelets.
	atOnce = 4
)

// Mesh is the cluster with Warren on it. Safe for concurrent use.
type Mesh struct {
	*cluster.Cluster
	App string // the test application's image

	values map[string]any // of the chart, beside its own
}

// up is the one mesh of this process.
var up = struct {
	once sync.Once
	mesh *Mesh
	err  error
}{}

// Main is the whole of TestMain: the cluster is started by the first test that wants it, and ends with the last.
func Main(m *testing.M) int {
	flag.Parse()
	sharing = newTurns(sharers())
	_ = flag.Set("test.parallel", "1000") // who waits is for sharing to say
	status := m.Run()
	if up.mesh == nil || kept() {
		return status
	}
	if err := up.mesh.Down(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return max(status, 1)
	}
	return status
}

func kept() bool { return os.Getenv(keepVariable) != "" }

// sharing is the order of the tests that share the mesh.
var sharing *turns

// sharers is how many tests share the mesh at once.
func sharers() int {
	n := atOnce
	flag.Visit(func(f *flag.Flag) {
		if f.Name == "test.parallel" {
			n = f.Value.(flag.Getter).Get().(int)
		}
	})
	return n
}

// Shared is the mesh for a test that runs beside others: it must not disturb what is not its own.
func Shared(t *testing.T) *Mesh {
	t.Helper()
	sharing.take(t, false)
	return get(t)
}

// SharedForLong is Shared for a test that takes minutes: it begins before the others.
func SharedForLong(t *testing.T) *Mesh {
	t.Helper()
	sharing.take(t, true)
	return get(t)
}

// Alone is the mesh for a test that disturbs it: no other runs meanwhile. (Go lets tests run in parallel only after all
// others have ended.) At its end the mesh has to be whole again.
func Alone(t *testing.T) *Mesh {
	t.Helper()
	m := get(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := m.whole(ctx); err != nil {
			t.Errorf("after the test the mesh is not whole: %v", err)
		}
	})
	return m
}

func get(t testing.TB) *Mesh {
	t.Helper()
	cluster.Privileged(t)
	up.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute) // the first time Kubernetes is compiled
		defer cancel()
		up.mesh, up.err = start(ctx, clusterName(), nil)
	})
	if up.err != nil {
		t.Fatalf("no mesh to test: %v", up.err)
	}
	return up.mesh
}

// Own is a mesh on a cluster of the test's own, with values of the chart, for what the others could not bear meanwhile.
// It ends with the test, except where clusters are kept.
func Own(t *testing.T, suffix string, values map[string]any) *Mesh {
	t.Helper()
	cluster.Privileged(t)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	m, err := start(ctx, clusterName()+"-"+suffix, values)
	if err != nil {
		t.Fatalf("no mesh of its own to test: %v", err)
	}
	if !kept() {
		t.Cleanup(func() {
			if err := m.Down(); err != nil {
				t.Error(err)
			}
		})
	}
	return m
}

func clusterName() string {
	if name := os.Getenv(clusterVariable); name != "" {
		return name
	}
	return "e2e"
}

// start brings up the cluster and Warren on it, or takes both over.
func start(ctx context.Context, name string, values map[string]any) (*Mesh, error) {
	if err := claim(name); err != nil {
		return nil, err
	}
	c, err := cluster.Up(ctx, cluster.Options{Name: name, Reuse: kept(), Output: os.Stderr})
	if err != nil {
		return nil, err
	}
	m := &Mesh{Cluster: c, values: values}
	if err := m.load(ctx); err != nil {
		if !kept() {
			err = errors.Join(err, c.Down())
		}
		return nil, err
	}
	return m, nil
}

// whole waits until every node is ready and every part of Warren rolled out.
func (m *Mesh) whole(ctx context.Context) error {
	for _, n := range m.Nodes() {
		if err := m.Wait(ctx, "", "nodes/"+n, cluster.Condition("Ready")); err != nil {
			return err
		}
	}
	for _, p := range []string{"daemonsets/" + nodeName, "daemonsets/" + ztunnelName, "deployments/" + controlName} {
		if err := m.Wait(ctx, system, p, cluster.RolledOut()); err != nil {
			return err
		}
	}
	return nil
}

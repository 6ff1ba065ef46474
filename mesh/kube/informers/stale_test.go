// SPDX-License-Identifier: Apache-2.0

package informers

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/tests/kubeapi"
)

func keeping(dir string, patience time.Duration) func(*Config) {
	return func(c *Config) { c.StateDir, c.Patience = dir, patience }
}

func TestARestartWithoutTheServerServesTheSnapshot(t *testing.T) {
	s := kubeapi.Start(t)
	installPolicies(s)
	world(s)
	s.PutMap(authz, deny("no", map[string]any{"namespaces": []any{"x"}}))
	dir := filepath.Join(t.TempDir(), "state")
	first := follow(t, s, keeping(dir, time.Minute))
	first.synced(t)
	want := first.Store().Snapshot()
	first.stop()
	s.Down()

	r := follow(t, s, keeping(dir, 50*time.Millisecond))
	r.synced(t)
	stale := r.Store().Snapshot()
	if !hasPolicy("no")(stale) || len(stale.Endpoints(cart)) != len(want.Endpoints(cart)) || stale.WorkloadByPod("uid-cart-1") == nil {
		t.Errorf("the snapshot lacks something: %d endpoints", len(stale.Endpoints(cart)))
	}
	if pods, _ := r.LocalPods(); len(pods) != 1 {
		t.Errorf("this node's pods: %+v", pods)
	}
	if st := r.Status(); !st.Stale || !st.Synced || st.Written.IsZero() || st.Kinds[0].Error == "" {
		t.Errorf("status %+v", st)
	}
	if err := testutil.CollectAndCompare(r, strings.NewReader(`
# HELP warren_objects_stale 1 while the mesh is served from the snapshot on disk because the API server is away.
# TYPE warren_objects_stale gauge
warren_objects_stale 1
`), "warren_objects_stale"); err != nil {
		t.Error(err)
	}

	// What happened meanwhile arrives as one step, without a word about what did not change.
	unchanged := stale.WorkloadByPod("uid-cart-2")
	s.Delete("v1/pods", "shop", "cart-1")
	s.Put("v1/pods", pod("cart-3", "a", 13))
	s.Delete(authz, "shop", "no")
	s.Up()
	snap := r.wait(t, "the present", func(m *mesh.Snapshot) bool { return m.Version() > stale.Version() })
	if snap.WorkloadByPod("uid-cart-1") != nil || snap.WorkloadByPod("uid-cart-3") == nil || hasPolicy("no")(snap) {
		t.Error("the first step is not the present")
	}
	if snap.WorkloadByPod("uid-cart-2") != unchanged {
		t.Error("a workload that did not change was put again")
	}
	eventually(t, "it is stale no more", func() bool { return !r.Status().Stale })
	if pods, _ := r.LocalPods(); len(pods) != 1 || pods[0].Name != "cart-3" {
		t.Errorf("this node's pods: %+v", pods)
	}
}

// A server that starts does not know its CustomResourceDefinitions at once. A process that starts with it must not
// take that for a cluster without policies, when there were some.
func TestAKindMissingAtTheStartTakesNoPolicyAway(t *testing.T) {
	s := kubeapi.Start(t)
	installPolicies(s)
	world(s)
	s.PutMap(authz, deny("no", map[string]any{"namespaces": []any{"x"}}))
	dir := t.TempDir()
	first := follow(t, s, keeping(dir, time.Minute))
	first.synced(t)
	first.stop()

	s.Uninstall(authz)
	r := follow(t, s, keeping(dir, 50*time.Millisecond))
	r.synced(t)
	if !hasPolicy("no")(r.Store().Snapshot()) || !r.Status().Stale {
		t.Fatalf("the policy fell away at the first word of its kind's absence: %+v", r.Status())
	}
	s.Install(authz, "AuthorizationPolicy")
	s.PutMap(authz, deny("yes", map[string]any{"namespaces": []any{"x"}}))
	r.wait(t, "the kind is back", hasPolicy("yes"))
}

// What an earlier process saw is no evidence: a pod that the snapshot has Ready and not enrolled, and that is
// enrolled by the time the server is back, was not seen becoming so.
func TestTheSnapshotIsNoHistory(t *testing.T) {
	s := kubeapi.Start(t)
	world(s)
	outside := pod("cart-1", "a", 11)
	outside.Labels[kube.KeyMesh] = "disabled"
	s.Put("v1/pods", outside)
	dir := t.TempDir()
	first := follow(t, s, keeping(dir, time.Minute))
	first.synced(t)
	first.stop()
	s.Down()
	r := follow(t, s, keeping(dir, 20*time.Millisecond))
	r.synced(t)
	if w := r.Store().Snapshot().WorkloadByPod("uid-cart-1"); w.Capture != mesh.Outside {
		t.Fatalf("capture %v, want outside", w.Capture)
	}
	s.Put("v1/pods", pod("cart-1", "a", 11))
	s.Up()
	r.wait(t, "it is enrolled", func(m *mesh.Snapshot) bool { return m.WorkloadByPod("uid-cart-1").Capture != mesh.Outside })
	if w := r.Store().Snapshot().WorkloadByPod("uid-cart-1"); w.Capture != mesh.Pending {
		t.Errorf("capture %v, want pending: plaintext to it was allowed on an earlier process's word", w.Capture)
	}
}

// atMessage calls f when that message is logged.
type atMessage struct {
	slog.Handler
	message string
	f       func()
}

func (a atMessage) Handle(_ context.Context, r slog.Record) error {
	if r.Message == a.message {
		a.f()
	}
	return nil
}

func (a atMessage) Enabled(context.Context, slog.Level) bool { return true }

// Who reads that the objects are the present, and no problem, takes the pods for all there are.
func TestThePresentComesWithItsProblems(t *testing.T) {
	s := kubeapi.Start(t)
	world(s)
	dir := t.TempDir()
	first := follow(t, s, keeping(dir, time.Minute))
	first.synced(t)
	first.stop()
	s.Down()
	problems := make(chan int, 1)
	r := &running{log: &logBuffer{}}
	r.start(t, s, keeping(dir, 20*time.Millisecond), func(c *Config) {
		c.Log = slog.New(atMessage{slog.DiscardHandler, "the API server is back: the snapshot is no longer stale", func() { problems <- len(r.Problems()) }})
	})
	r.synced(t)
	wrong := pod("cart-9", "a", 19)
	wrong.Status.PodIP = "x"
	s.Put("v1/pods", wrong)
	s.Up()
	select {
	case n := <-problems:
		if n != 1 {
			t.Errorf("%d problems when the objects are called the present", n)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the server is not back")
	}
}

// TestSnapshotsLeaveNothingBehind: a process that is killed while it writes is swept up after, one that writes is not.
func TestSnapshotsLeaveNothingBehind(t *testing.T) {
	dir := t.TempDir()
	for name, age := range map[string]time.Duration{".objects.snapshot-old": 2 * onItsWay, ".objects.snapshot-young": 0} {
		path, at := filepath.Join(dir, name), time.Now().Add(-age)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := write(dir, nil, time.Unix(7, 0)); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".*"))
	if len(left) != 1 || filepath.Base(left[0]) != ".objects.snapshot-young" {
		t.Errorf("left: %v", left)
	}
}

func TestADamagedSnapshotIsNoSnapshot(t *testing.T) {
	dir := t.TempDir()
	contents := map[string]objects{"Pod": {"a/b": []byte("x"), "a/c": nil}, "Gone": {"x": []byte("y")}}
	if err := write(dir, contents, time.Unix(7, 0)); err != nil {
		t.Fatal(err)
	}
	back, written, err := load(dir)
	if err != nil || written.Unix() != 7 || string(back["Pod"]["a/b"]) != "x" || len(back["Pod"]) != 2 {
		t.Fatalf("%v %v %v", back, written, err)
	}
	path := filepath.Join(dir, snapshotFile)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 1
		if _, _, err := unmarshal(bad); err == nil {
			t.Fatalf("byte %d changed, and nobody noticed", i)
		}
		if _, _, err := unmarshal(good[:i]); err == nil {
			t.Fatalf("cut at byte %d, and nobody noticed", i)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add(marshal(map[string]objects{"Pod": {"a/b": []byte("x")}}, time.Unix(7, 0)))
	f.Fuzz(func(t *testing.T, body []byte) {
		// The sum is made right, so that what it guards is reached.
		if _, _, err := unmarshal(seal(body)); err != nil && err != errDamaged {
			t.Errorf("%v", err)
		}
	})
}

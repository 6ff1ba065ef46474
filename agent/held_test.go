// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/cni"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/tests/testutil"
)

// filesHeld are the uids of the pods that are kept as held.
func (r *rig) filesHeld() (uids []string) {
	entries, _ := os.ReadDir(filepath.Join(r.cfg.StateDir, heldDir))
	for _, e := range entries {
		uids = append(uids, e.Name())
	}
	return uids
}

// A pod deleted by force runs on: an agent that starts then has it held, and served, until the broker says that it ended.
func TestForceDeletedPodOutlastsTheAgent(t *testing.T) {
	r, stop := newRig(t, "", enrolledPod())
	testutil.Eventually(t, 5*time.Second, "it is kept as held", func() bool { return slices.Equal(r.filesHeld(), []string{"u1.json"}) })
	testutil.Eventually(t, 5*time.Second, "it is captured", func() bool { return r.countPods()["pending"] == 1 }) // no ztunnel here
	r.set()
	running := func(r *rig) func() bool {
		return func() bool { ps := r.debugPods(); return len(ps) == 1 && ps[0].State == "deleted, and still running" }
	}
	testutil.Eventually(t, 5*time.Second, "its object is gone", running(r))
	stop()
	state := r.cfg.StateDir

	r, stop = newRig(t, state)
	testutil.Eventually(t, 5*time.Second, "the list is complete", r.synced)
	first, _, _ := r.told()
	testutil.Eventually(t, 5*time.Second, "the next agent knows it", running(r))
	testutil.Eventually(t, 5*time.Second, "the broker said so", func() bool { ps := r.debugPods(); return len(ps) == 1 && ps[0].Broker == "captured" })
	updates, _, deleted := r.told()
	if len(updates) != 1 || len(first) != 1 || updates[0].UID != "u1" || updates[0].ServiceAccount != "web" || len(updates[0].Addresses) != 1 || len(deleted) > 0 {
		t.Errorf("told %+v, before the complete list %+v, and to let go of %v", updates, first, deleted)
	}
	stop()

	// A broker that starts may not get the listeners at once.
	none := &objects{changed: make(chan struct{})}
	r, stop = newRigAnswering(t, state, none, func(broker.Capture, uint64) *broker.State { return &broker.State{Reason: "address in use"} })
	testutil.Eventually(t, 5*time.Second, "the broker said so", func() bool { ps := r.debugPods(); return len(ps) == 1 && ps[0].Broker == "address in use" })
	if _, _, deleted := r.told(); len(deleted) > 0 || len(r.filesHeld()) != 1 || !running(r)() {
		t.Errorf("told to let go of %v, kept %v", deleted, r.filesHeld())
	}
	stop()

	// It ended while no agent was there.
	r, stop = newRigAnswering(t, state, none, func(broker.Capture, uint64) *broker.State { return &broker.State{Gone: true, Reason: "no such cgroup"} })
	testutil.Eventually(t, 5*time.Second, "it is let go", func() bool { _, _, deleted := r.told(); return slices.Equal(deleted, []string{"u1"}) })
	testutil.Eventually(t, 5*time.Second, "nothing is kept of it", func() bool { return len(r.filesHeld()) == 0 && len(r.debugPods()) == 0 })
	stop()
}

// A full disk, say, is one for a time.
func TestFileThatCanNotBeWrittenIsTriedAgain(t *testing.T) {
	state := t.TempDir()
	if err := os.WriteFile(filepath.Join(state, heldDir), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r, stop := newRig(t, state, enrolledPod())
	defer stop()
	testutil.Eventually(t, 5*time.Second, "it is held", func() bool { updates, _, _ := r.told(); return len(updates) == 1 })
	testutil.Eventually(t, 5*time.Second, "it is captured", func() bool { return r.countPods()["pending"] == 1 }) // no ztunnel here
	if err := os.Remove(filepath.Join(state, heldDir)); err != nil {
		t.Fatal(err)
	}
	r.set(enrolledPod())
	testutil.Eventually(t, 5*time.Second, "it is kept as held", func() bool { return slices.Equal(r.filesHeld(), []string{"u1.json"}) })
}

// Where there is an object it says what becomes of the pod.
func TestHeldPodWithAnObject(t *testing.T) {
	r, stop := newRig(t, "", enrolledPod())
	testutil.Eventually(t, 5*time.Second, "it is kept as held", func() bool { return len(r.filesHeld()) == 1 })
	stop()
	outside := enrolledPod()
	outside.Enrolled, outside.Reason = false, kube.NotEnrolled
	r, _ = newRig(t, r.cfg.StateDir, outside)
	testutil.Eventually(t, 5*time.Second, "the list is complete", r.synced)
	if updates, _, _ := r.told(); len(updates) > 0 {
		t.Errorf("told %+v of a pod that is not in the mesh", updates)
	}
	testutil.Eventually(t, 5*time.Second, "nothing is kept of it", func() bool { return len(r.filesHeld()) == 0 })
}

// That a pod is captured may not be published yet: where nobody can tell whether it is in the mesh, the file says it.
func TestHeldPodNobodyCanTellOf(t *testing.T) {
	for _, word := range []string{kube.EnrolmentUnreadable, kube.NamespaceUnknown} {
		for _, addressed := range []bool{true, false} {
			ran := enrolledPod()
			ran.Running = true
			r, stop := newRig(t, "", ran)
			testutil.Eventually(t, 5*time.Second, "it is kept as held", func() bool { return len(r.filesHeld()) == 1 })
			stop()
			wrong := enrolledPod()
			wrong.Enrolled, wrong.Reason = false, word
			if !addressed {
				wrong.Addresses = nil
			}
			another := wrong
			another.UID, another.Name = "u2", "web-2"

			r, stop = newRig(t, r.cfg.StateDir, wrong, another)
			testutil.Eventually(t, 5*time.Second, "the list is complete", r.synced)
			updates, _, deleted := r.told()
			if len(updates) != 1 || len(deleted) > 0 || !reflect.DeepEqual(updates[0], broker.Capture{
				UID: "u1", Namespace: "app", Name: "web", ServiceAccount: "web", Addresses: ran.Addresses, Running: true,
			}) {
				t.Errorf("%s, addressed %v: told %+v, and to let go of %v", word, addressed, updates, deleted)
			}
			testutil.Eventually(t, 5*time.Second, "it is as any that ztunnel has not", func() bool {
				ps := r.debugPods()
				return len(ps) == 2 && ps[0].State == pendingZtunnel && ps[0].Published == "" && ps[1].State == word
			})
			if got := r.filesHeld(); !slices.Equal(got, []string{"u1.json"}) {
				t.Errorf("%s, addressed %v: kept %v", word, addressed, got)
			}
			wrong.Reason = kube.OptedOut
			r.set(wrong, another)
			testutil.Eventually(t, 5*time.Second, "a word that can be read counts", func() bool { _, _, deleted := r.told(); return slices.Equal(deleted, []string{"u1"}) })
			testutil.Eventually(t, 5*time.Second, "nothing is kept of it", func() bool { return len(r.filesHeld()) == 0 })
			stop()
		}
	}
}

// The object may come late, as from an API server that was away: it is the pod's as if it had come first.
func TestHeldPodWhoseObjectComesLate(t *testing.T) {
	r, stop := newRig(t, "", newPod)
	if got := r.ask(announcement(), 5*time.Second); got.Result != cni.Captured {
		t.Fatalf("%+v", got)
	}
	stop()
	src := &old{objects: &objects{changed: make(chan struct{})}, Collector: prometheus.NewCounter(prometheus.CounterOpts{Name: "x"})}
	src.stale.Store(true)
	r, _ = newRigOver(t, r.cfg.StateDir, src)
	testutil.Eventually(t, 5*time.Second, "the next agent has it held", func() bool { updates, _, _ := r.told(); return len(updates) == 1 })
	src.mend(newPod) // without its addresses still
	src.tell()
	src.stale.Store(false)
	testutil.Eventually(t, 5*time.Second, "the list is complete", r.synced)
	if updates, _, deleted := r.told(); len(updates) != 1 || len(deleted) > 0 {
		t.Errorf("told %+v, and to let go of %v", updates, deleted)
	}
}

// What is kept is of this run of the kernel: in another one the pod's processes are gone.
func TestFilesOfAnotherBoot(t *testing.T) {
	files := podFiles[held, *held]{dir: filepath.Join(t.TempDir(), heldDir)}
	for _, uid := range []string{"now", "before", "broken"} {
		if err := files.save(uid, &held{Capture: broker.Capture{UID: uid}}); err != nil {
			t.Fatal(err)
		}
	}
	write := func(uid, text string) {
		if err := os.WriteFile(filepath.Join(files.dir, uid+".json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("before", `{"uid":"before","boot":"another"}`)
	write("broken", `{`)
	got, err := files.load()
	if len(got) != 1 || got["now"] == nil || got["now"].UID != "now" || err == nil {
		t.Errorf("got %v, %v", got, err)
	}
	if left, _ := os.ReadDir(files.dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/kube"
)

var (
	t0    = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	drain = 25 * time.Second
)

func enrolledPod() kube.LocalPod {
	return kube.LocalPod{UID: "u1", Namespace: "app", Name: "web", ServiceAccount: "web", Enrolled: true,
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
}

// words makes steps readable: what is done, to which pod, with which value.
func words(steps []step) []string {
	out := []string{}
	for _, s := range steps {
		w := fmt.Sprintf("%T %s", s, s.pod())
		if p, ok := s.(publish); ok {
			w += " " + p.value
		}
		out = append(out, w)
	}
	return out
}

func TestPlanJoinsInOrderAndPublishesOnlyWhenBrokerAndZtunnelHaveIt(t *testing.T) {
	tr := &tracked{pod: enrolledPod(), exists: true}
	pods := map[string]*tracked{"u1": tr}
	expect := func(when string, want ...string) {
		t.Helper()
		steps, _ := plan(pods, t0, drain)
		if want == nil {
			want = []string{}
		}
		if d := cmp.Diff(want, words(steps)); d != "" {
			t.Fatalf("%s (-want +got)\n%s", when, d)
		}
	}
	expect("new pod", "agent.capture u1", "agent.serve u1")
	expect("nothing happened")
	tr.kernel = &broker.State{Captured: true}
	expect("ztunnel has not acknowledged")
	tr.acked = true
	expect("both have it", "agent.publish u1 true")
	expect("said once")
	tr.kernel = nil
	expect("broker restarts: what was published stays")
	tr.kernel = &broker.State{Reason: "KERNEL_UNVERIFIED"}
	expect("broker lost it", "agent.publish u1 KERNEL_UNVERIFIED")
}

func TestPlanPublishesFailureOfACaptureThatNeverWorked(t *testing.T) {
	tr := &tracked{pod: enrolledPod(), exists: true, kernel: &broker.State{Reason: "netns not found"}}
	steps, _ := plan(map[string]*tracked{"u1": tr}, t0, drain)
	want := []string{"agent.capture u1", "agent.serve u1", "agent.publish u1 netns not found"}
	if d := cmp.Diff(want, words(steps)); d != "" {
		t.Fatal(d)
	}
}

func TestPlanReleasesAtOnceAndUnservesWhenDrained(t *testing.T) {
	for _, tc := range []struct {
		name string
		gone bool
		at   time.Time
	}{
		{"the broker says the last connection ended", true, t0.Add(time.Second)},
		{"the drain deadline passed without that word", false, t0.Add(drain)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tr := &tracked{pod: enrolledPod(), exists: true, kernel: &broker.State{Captured: true}, acked: true}
			pods := map[string]*tracked{"u1": tr}
			plan(pods, t0, drain)
			tr.acked = true
			plan(pods, t0, drain)
			tr.pod.Enrolled, tr.pod.Reason = false, kube.NotEnrolled
			steps, wake := plan(pods, t0, drain)
			if d := cmp.Diff([]string{"agent.release u1", "agent.publish u1 "}, words(steps)); d != "" {
				t.Fatal(d)
			}
			if !wake.Equal(t0.Add(drain)) {
				t.Fatalf("wake %v", wake)
			}
			if steps, _ = plan(pods, t0.Add(time.Second/2), drain); len(steps) != 0 {
				t.Fatalf("while draining: %v", words(steps))
			}
			if tc.gone {
				tr.kernel = &broker.State{Gone: true}
			}
			steps, wake = plan(pods, tc.at, drain)
			if d := cmp.Diff([]string{"agent.unserve u1"}, words(steps)); d != "" || !wake.IsZero() {
				t.Fatal(d, wake)
			}
		})
	}
}

// The object of a pod that is deleted by force goes long before its containers.
func TestPlanForgetsAPodOnceObjectAndProcessesAreGone(t *testing.T) {
	tr := &tracked{pod: enrolledPod(), exists: true, kernel: &broker.State{Captured: true}, acked: true}
	pods := map[string]*tracked{"u1": tr}
	plan(pods, t0, drain)
	tr.exists = false
	if steps, _ := plan(pods, t0, drain); len(steps) != 0 {
		t.Fatalf("its processes still run, and it leaves the mesh: %v", words(steps))
	}
	if tr.label() != "releasing" {
		t.Errorf("counted as %s", tr.label())
	}
	for _, passing := range []*broker.State{{Reason: "bind: address already in use"}, {Reason: "KERNEL_UNVERIFIED: listener lost"}, nil} {
		tr.kernel = passing
		if steps, _ := plan(pods, t0.Add(time.Hour), drain); len(steps) != 0 || tr.label() != "releasing" {
			t.Fatalf("%+v does not say that it ended: %v, %s", passing, words(steps), tr.label())
		}
	}
	tr.kernel = &broker.State{Gone: true}
	steps, _ := plan(pods, t0, drain)
	if d := cmp.Diff([]string{"agent.release u1", "agent.unserve u1"}, words(steps)); d != "" {
		t.Fatal(d)
	}
	if len(pods) != 0 {
		t.Fatal("still tracked")
	}
}

// A pod whose object goes before the broker answers may run: the broker says whether it is there.
func TestPlanForgetsAPodThatWasNeverCaptured(t *testing.T) {
	tr := &tracked{pod: enrolledPod(), exists: true}
	pods := map[string]*tracked{"u1": tr}
	plan(pods, t0, drain)
	tr.exists = false
	if steps, _ := plan(pods, t0, drain); len(steps) != 0 {
		t.Fatal(words(steps))
	}
	tr.kernel = &broker.State{Gone: true, Reason: "no such cgroup"}
	steps, _ := plan(pods, t0, drain)
	if d := cmp.Diff([]string{"agent.release u1", "agent.unserve u1"}, words(steps)); d != "" || len(pods) != 0 {
		t.Fatal(d, pods)
	}
}

func TestPlanCapturesAgainAPodEnrolledWhileItIsReleased(t *testing.T) {
	tr := &tracked{pod: enrolledPod(), exists: true, kernel: &broker.State{Captured: true}, acked: true}
	pods := map[string]*tracked{"u1": tr}
	plan(pods, t0, drain)
	tr.pod.Enrolled = false
	plan(pods, t0, drain)
	tr.pod.Enrolled = true
	steps, wake := plan(pods, t0.Add(time.Second), drain)
	if d := cmp.Diff([]string{"agent.capture u1"}, words(steps)); d != "" || !wake.IsZero() {
		t.Fatal(d, wake)
	}
}

func TestPlanTellsWhyAPodIsLeftAlone(t *testing.T) {
	for word, want := range map[string]string{
		kube.HostNetwork: kube.HostNetwork, kube.InjectedSidecar: kube.InjectedSidecar,
		kube.NotEnrolled: "", kube.ExcludedNamespace: "",
	} {
		p := enrolledPod()
		p.Enrolled, p.Reason = false, word
		tr := &tracked{pod: p, exists: true}
		plan(map[string]*tracked{"u1": tr}, t0, drain)
		if tr.published != want {
			t.Errorf("%s: published %q, want %q", word, tr.published, want)
		}
	}
}

// Nobody can tell whether it belongs to the mesh: what was said of it stays said.
func TestPlanKeepsTheWordOfAPodNobodyCanTellOf(t *testing.T) {
	for _, word := range []string{kube.NamespaceUnknown, kube.EnrolmentUnreadable} {
		for _, said := range []string{captured, "", kube.OptedOut} {
			p := enrolledPod()
			p.Enrolled, p.Reason = false, word
			steps, _ := plan(map[string]*tracked{"u1": {pod: p, exists: true, published: said}}, t0, drain)
			if len(steps) != 0 {
				t.Errorf("%s, published %q: %v", word, said, words(steps))
			}
		}
		p := enrolledPod()
		tr := &tracked{pod: p, exists: true, kernel: &broker.State{Captured: true}}
		pods := map[string]*tracked{"u1": tr}
		plan(pods, t0, drain)
		tr.pod.Enrolled, tr.pod.Reason = false, kube.OptedOut
		plan(pods, t0, drain)
		tr.pod.Reason = word
		if steps, _ := plan(pods, t0, drain); len(steps) != 1 || words(steps)[0] != "agent.publish u1 " {
			t.Errorf("%s while it is released: %v", word, words(steps))
		}
	}
}

func TestPlanWithdrawsAStaleCapturedAfterARestart(t *testing.T) {
	p := enrolledPod()
	p.Enrolled, p.Reason = false, kube.NotEnrolled
	tr := &tracked{pod: p, exists: true, published: captured}
	steps, _ := plan(map[string]*tracked{"u1": tr}, t0, drain)
	if d := cmp.Diff([]string{"agent.publish u1 "}, words(steps)); d != "" {
		t.Fatal(d)
	}
}

// Whoever may write a pod's annotations can take the word back by which others reach it.
func TestPlanSaysAgainWhatTheObjectLost(t *testing.T) {
	tr := &tracked{pod: enrolledPod(), exists: true, kernel: &broker.State{Captured: true}}
	pods := map[string]*tracked{"u1": tr}
	plan(pods, t0, drain)
	tr.kernel, tr.acked = &broker.State{Captured: true}, true
	expect := func(when string, now time.Time, wantWake time.Time, want ...string) {
		t.Helper()
		steps, wake := plan(pods, now, drain)
		if d := cmp.Diff(append([]string{}, want...), words(steps)); d != "" || !wake.Equal(wantWake) {
			t.Fatalf("%s: wake %v, (-want +got)\n%s", when, wake, d)
		}
	}
	expect("captured", t0, time.Time{}, "agent.publish u1 true")
	tr.read(captured, t0)
	expect("the object says so", t0, time.Time{})
	tr.read("", t0)
	again := t0.Add(correctAfter)
	expect("it does no more", t0, again)
	expect("a moment later", again, time.Time{}, "agent.publish u1 true")

	// Two words in quick succession come back one by one.
	tr.kernel = &broker.State{Reason: "KERNEL_UNVERIFIED"}
	expect("lost", again, time.Time{}, "agent.publish u1 KERNEL_UNVERIFIED")
	tr.kernel = &broker.State{Captured: true}
	expect("found", again, time.Time{}, "agent.publish u1 true")
	tr.read("KERNEL_UNVERIFIED", again)
	expect("the first is back", again, again.Add(correctAfter))
	tr.read(captured, again)
	expect("the second is back", again.Add(correctAfter), time.Time{})
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	for want, c := range map[string]Config{
		"--node": {RunDir: "/x"}, "--run-dir": {Node: "a"}, "--drain": {Node: "a", RunDir: "/x", Drain: -1},
	} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", c, err, want)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/warren-mesh/warren/mesh"
)

// world is a translator with the store its changes go to and a clock that stands still.
type world struct {
	t     *testing.T
	tr    *Translator
	store *mesh.Store
	now   time.Time
}

// newWorld has seen the objects as its initial list.
func newWorld(t *testing.T, list ...runtime.Object) *world {
	t.Helper()
	w := &world{t: t, store: mesh.NewStore(), now: time.Unix(1000, 0)}
	w.tr = NewTranslator(Config{Node: "a", Now: func() time.Time { return w.now }})
	w.must(w.tr.Apply(events(list)))
	w.must(w.tr.Synced())
	return w
}

func events(objects []runtime.Object) (out []Event) {
	for _, o := range objects {
		out = append(out, Event{Object: o})
	}
	return out
}

func (w *world) must(r Result) Result {
	w.t.Helper()
	if len(r.Problems) > 0 {
		w.t.Fatalf("problems: %v", r.Problems)
	}
	w.store.Apply(r.Changes...)
	return r
}

func (w *world) put(objects ...runtime.Object) Result {
	w.t.Helper()
	return w.must(w.tr.Apply(events(objects)))
}

func (w *world) delete(o runtime.Object) Result {
	w.t.Helper()
	return w.must(w.tr.Apply([]Event{{Object: o, Deleted: true}}))
}

// refuse applies an object that has to be refused with a problem of that field.
func (w *world) refuse(o runtime.Object, field string) {
	w.t.Helper()
	r := w.tr.Apply([]Event{{Object: o, Source: "f:1"}})
	if len(r.Changes) > 0 {
		w.t.Errorf("a refused object changed the mesh: %+v", r.Changes)
	}
	for _, p := range r.Problems {
		if p.Field == field && p.Source == "f:1" && p.Object != "" && !p.Partial {
			return
		}
	}
	w.t.Errorf("no problem with %s: %v", field, r.Problems)
}

func (w *world) web() *mesh.Workload { return w.store.Snapshot().Workload("Kubernetes//Pod/shop/web") }

func namespace(name string, labels ...string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: pairs(labels)}}
}

func pairs(kv []string) map[string]string {
	m := map[string]string{}
	for i := 0; i+1 < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return m
}

// webPod is shop/web on node a, Running and Ready.
func webPod(edits ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u1", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{}},
		Spec:       corev1.PodSpec{NodeName: "a", ServiceAccountName: "sa"},
		Status: corev1.PodStatus{
			Phase:      corev1.PodRunning,
			PodIPs:     []corev1.PodIP{{IP: "10.0.0.5"}, {IP: "fd00::5"}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	for _, e := range edits {
		e(p)
	}
	return p
}

func published(v string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations[KeyCaptured] = v }
}
func label(k, v string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Labels[k] = v } }
func annotation(k, v string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations[k] = v }
}
func hostNetwork(p *corev1.Pod) { p.Spec.HostNetwork = true }
func notReady(p *corev1.Pod)    { p.Status.Conditions = nil }
func pending(p *corev1.Pod)     { notReady(p); p.Status.Phase = corev1.PodPending }
func dancing(p *corev1.Pod)     { p.Status.Phase = "Dancing" }
func uid(u string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.UID = types.UID(u) }
}

var enrolledShop = namespace("shop", KeyMesh, "enabled")

func TestEnrolment(t *testing.T) {
	inSidecar := annotation("sidecar.istio.io/status", "{}")
	tests := []struct {
		name string
		ns   *corev1.Namespace
		pod  *corev1.Pod
		want string // the word; "" is enrolled
	}{
		{"nothing said", namespace("shop"), webPod(), NotEnrolled},
		{"namespace label", enrolledShop, webPod(), ""},
		{"namespace annotation", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Annotations: pairs([]string{KeyMesh, "enabled"})}}, webPod(), ""},
		{"namespace in ambient's words", namespace("shop", KeyDataplaneMode, "ambient"), webPod(), ""},
		{"somebody else's dataplane mode", namespace("shop", KeyDataplaneMode, "other"), webPod(), NotEnrolled},
		{"namespace disabled", namespace("shop", KeyMesh, "disabled", KeyDataplaneMode, "ambient"), webPod(), NotEnrolled},
		{"pod in", namespace("shop"), webPod(label(KeyMesh, "enabled")), ""},
		{"pod in although its namespace is out", namespace("shop", KeyMesh, "disabled"), webPod(annotation(KeyDataplaneMode, "ambient")), ""},
		{"pod out", enrolledShop, webPod(label(KeyMesh, "disabled")), OptedOut},
		{"pod out in ambient's words", enrolledShop, webPod(annotation(KeyDataplaneMode, "none")), OptedOut},
		{"warren.dev over istio.io", enrolledShop, webPod(annotation(KeyMesh, "enabled"), label(KeyDataplaneMode, "none")), ""},
		{"label over annotation", enrolledShop, webPod(annotation(KeyMesh, "enabled"), label(KeyMesh, "disabled")), OptedOut},
		{"host network", enrolledShop, webPod(hostNetwork, label(KeyMesh, "enabled")), HostNetwork},
		{"sidecar", enrolledShop, webPod(inSidecar, label(KeyMesh, "enabled")), InjectedSidecar},
		{"namespace not seen", nil, webPod(), NamespaceUnknown},
		{"namespace not seen, pod in", nil, webPod(label(KeyMesh, "enabled")), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list := []runtime.Object{tt.pod}
			if tt.ns != nil {
				list = append(list, tt.ns)
			}
			w := newWorld(t, list...)
			l := w.tr.emitted.local["u1"]
			if l.Enrolled != (tt.want == "") || l.Reason != tt.want {
				t.Errorf("local pod: enrolled %v, reason %q; want %q", l.Enrolled, l.Reason, tt.want)
			}
			want := mesh.Outside
			if tt.want == "" || tt.want == NamespaceUnknown {
				want = mesh.Pending
			}
			if got := w.web(); got.Capture != want || got.CaptureReason != tt.want {
				t.Errorf("capture: got %v %q, want %v", got.Capture, got.CaptureReason, want)
			}
		})
	}
}

func TestExcludedNamespaces(t *testing.T) {
	pod := webPod(label(KeyMesh, "enabled"))
	for name, tt := range map[string]struct {
		excluded []string
		ns       string
		want     string
	}{
		"default, kube-system": {nil, "kube-system", ExcludedNamespace},
		"default, root":        {nil, "warren-system", ExcludedNamespace},
		"default, other":       {nil, "shop", ""},
		"configured":           {[]string{"shop"}, "shop", ExcludedNamespace},
		"none":                 {[]string{}, "kube-system", ""},
	} {
		pod.Namespace = tt.ns
		tr := NewTranslator(Config{Node: "a", ExcludedNamespaces: tt.excluded})
		tr.Apply(events([]runtime.Object{namespace(tt.ns), pod.DeepCopy()}))
		r := tr.Synced()
		if len(r.LocalPods) != 1 || r.LocalPods[0].Reason != tt.want {
			t.Errorf("%s: got %+v, want %q", name, r.LocalPods, tt.want)
		}
	}
}

func TestCaptureRules(t *testing.T) {
	out := namespace("shop")
	type step struct {
		put    []runtime.Object
		want   mesh.Capture
		reason string
	}
	tests := []struct {
		name  string
		list  []runtime.Object
		first mesh.Capture
		steps []step
	}{
		{"a: published true", []runtime.Object{enrolledShop, webPod(published("true"))}, mesh.Captured, []step{
			{[]runtime.Object{webPod(published("NoNetns"))}, mesh.Pending, "NoNetns"},
			{[]runtime.Object{webPod(published("true"))}, mesh.Captured, ""},
			{[]runtime.Object{out}, mesh.Captured, ""}, // its node still says so
			{[]runtime.Object{webPod(published(NotEnrolled))}, mesh.Outside, NotEnrolled},
		}},
		{"b: host network whatever is published", []runtime.Object{enrolledShop, webPod(hostNetwork, published("true"))}, mesh.Outside, nil},
		{"c: seen Ready, then enrolled", []runtime.Object{out, webPod()}, mesh.Outside, []step{
			{[]runtime.Object{enrolledShop}, mesh.ReadyBeforeEnrolled, ""},
			{[]runtime.Object{webPod(notReady)}, mesh.ReadyBeforeEnrolled, ""},
			{[]runtime.Object{webPod(published("NoNetns"))}, mesh.Pending, "NoNetns"},
			{[]runtime.Object{webPod(published("true"))}, mesh.Captured, ""},
			{[]runtime.Object{webPod()}, mesh.Pending, ""}, // somebody took the annotation away
			{[]runtime.Object{webPod(published(OptedOut))}, mesh.Pending, ""},
			{[]runtime.Object{webPod(published("true"))}, mesh.Captured, ""},
		}},
		{"c: captured and not, in one step", []runtime.Object{out, webPod()}, mesh.Outside, []step{
			{[]runtime.Object{enrolledShop}, mesh.ReadyBeforeEnrolled, ""},
			{[]runtime.Object{webPod(published("true")), webPod()}, mesh.Pending, ""},
		}},
		{"c: captured, taken out, and enrolled again", []runtime.Object{out, webPod()}, mesh.Outside, []step{
			{[]runtime.Object{enrolledShop, webPod(published("true"))}, mesh.Captured, ""},
			{[]runtime.Object{out}, mesh.Captured, ""},
			{[]runtime.Object{enrolledShop, webPod()}, mesh.Pending, ""}, // its node's last word was that it is captured
			{[]runtime.Object{out}, mesh.Outside, NotEnrolled},
			{[]runtime.Object{enrolledShop}, mesh.ReadyBeforeEnrolled, ""}, // it was seen outside
		}},
		{"c: a word that it was left alone is nothing published", []runtime.Object{out, webPod(published(NotEnrolled))}, mesh.Outside, []step{
			{[]runtime.Object{enrolledShop}, mesh.ReadyBeforeEnrolled, ""},
		}},
		{"d: Ready and enrolled in the initial list", []runtime.Object{webPod(), enrolledShop}, mesh.Pending, []step{
			{[]runtime.Object{webPod(notReady)}, mesh.Pending, ""},
			{[]runtime.Object{webPod()}, mesh.Pending, ""},
		}},
		{"d: enrolled before it was Ready", []runtime.Object{out, webPod(pending)}, mesh.Outside, []step{
			{[]runtime.Object{enrolledShop}, mesh.Pending, ""},
			{[]runtime.Object{webPod()}, mesh.Pending, ""},
		}},
		{"d: Ready and enrolled in one step", []runtime.Object{out, webPod(pending)}, mesh.Outside, []step{
			{[]runtime.Object{webPod(), enrolledShop}, mesh.Pending, ""},
		}},
		{"d: re-created under its name", []runtime.Object{out, webPod()}, mesh.Outside, []step{
			{[]runtime.Object{enrolledShop}, mesh.ReadyBeforeEnrolled, ""},
			{[]runtime.Object{webPod(uid("u2"))}, mesh.Pending, ""},
		}},
		{"d: its namespace came late", []runtime.Object{webPod()}, mesh.Pending, []step{
			{[]runtime.Object{enrolledShop}, mesh.Pending, ""},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, tt.list...)
			if got := w.web().Capture; got != tt.first {
				t.Fatalf("first: got %v, want %v", got, tt.first)
			}
			for i, s := range tt.steps {
				w.put(s.put...)
				if got := w.web(); got.Capture != s.want || got.CaptureReason != s.reason {
					t.Fatalf("step %d: got %v %q, want %v %q", i, got.Capture, got.CaptureReason, s.want, s.reason)
				}
			}
		})
	}
}

// An informer lists kinds one after the other: a pod listed before its namespace was not seen un-enrolled.
func TestInitialListInParts(t *testing.T) {
	tr := NewTranslator(Config{})
	for _, o := range []runtime.Object{namespace("shop"), webPod(), enrolledShop} {
		if r := tr.Apply(events([]runtime.Object{o})); len(r.Changes) > 0 || len(r.LocalPods) > 0 {
			t.Fatalf("told before the list was complete: %+v", r)
		}
	}
	s := mesh.NewSnapshot().With(tr.Synced().Changes...)
	if got := s.Workload("Kubernetes//Pod/shop/web").Capture; got != mesh.Pending {
		t.Errorf("got %v, want pending", got)
	}
}

func TestCapturedAt(t *testing.T) {
	w := newWorld(t, enrolledShop, webPod(pending))
	first := w.now
	w.now = w.now.Add(time.Minute)
	w.put(webPod(pending, published("true"))) // captured by CNI, before it ran
	if got := w.web(); !got.CapturedAt.Equal(w.now) || got.CapturedRunning {
		t.Errorf("captured before it ran: at %v, running %v", got.CapturedAt, got.CapturedRunning)
	}
	at := w.now
	w.now = w.now.Add(time.Minute)
	w.put(webPod(published("true")))
	if got := w.web(); !got.CapturedAt.Equal(at) || got.CapturedRunning {
		t.Errorf("an update moved it: at %v, running %v", got.CapturedAt, got.CapturedRunning)
	}
	w.put(webPod())
	if got := w.web(); !got.CapturedAt.IsZero() {
		t.Errorf("not captured any more, yet captured at %v", got.CapturedAt)
	}
	w.put(webPod(published("true")))
	if got := w.web(); !got.CapturedAt.Equal(w.now) || !got.CapturedRunning {
		t.Errorf("captured while running: at %v, running %v", got.CapturedAt, got.CapturedRunning)
	}
	w = newWorld(t, enrolledShop, webPod(published("true")))
	if got := w.web(); got.CapturedRunning || !got.CapturedAt.Equal(first) {
		t.Errorf("from the initial list nobody knows that it ran before: at %v, running %v", got.CapturedAt, got.CapturedRunning)
	}
}

func TestPodLife(t *testing.T) {
	w := newWorld(t, enrolledShop, webPod(pending, func(p *corev1.Pod) { p.Status.PodIPs = nil }))
	if got := w.web(); got == nil || got.Identity().String() != "spiffe://cluster.local/ns/shop/sa/sa" {
		t.Fatalf("a pod without address has its identity already: %+v", got)
	}
	r := w.put(webPod())
	if len(r.LocalPods) != 1 || len(r.LocalPods[0].Addresses) != 2 || r.LocalPods[0].Running {
		t.Errorf("local pod after it started: %+v", r.LocalPods)
	}
	a := netip.MustParseAddr("::ffff:10.0.0.5")
	if w.store.Snapshot().WorkloadByAddr(a) == nil {
		t.Error("not found by address")
	}
	w.put(webPod(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: w.now} }))
	if got := w.web(); got == nil || got.Ready || !got.Draining || len(got.Addresses) != 2 || got.ServiceAccount != "sa" {
		t.Errorf("terminating: %+v", got)
	}
	r = w.put(webPod(uid("u2"), func(p *corev1.Pod) { p.Spec.ServiceAccountName = "" }))
	if len(r.RemovedPods) != 1 || r.RemovedPods[0] != "u1" || len(r.LocalPods) != 1 || r.LocalPods[0].UID != "u2" || !r.LocalPods[0].Running {
		t.Errorf("re-created: %+v", r)
	}
	if got := w.web(); got.PodUID != "u2" || got.ServiceAccount != "default" {
		t.Errorf("re-created: %+v", got)
	}
	if r := w.put(webPod(uid("u2"), func(p *corev1.Pod) { p.Spec.ServiceAccountName = "" })); len(r.Changes)+len(r.LocalPods) > 0 {
		t.Errorf("nothing changed, yet told %+v", r)
	}
	r = w.put(webPod(uid("u2"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }))
	if w.web() != nil || len(r.RemovedPods) != 1 {
		t.Errorf("finished, yet there: %+v", r)
	}
	w.put(webPod(uid("u3")))
	if r = w.delete(webPod()); w.web() != nil || len(r.RemovedPods) != 1 || r.RemovedPods[0] != "u3" {
		t.Errorf("deleted, yet there: %+v", r)
	}
	w.put(webPod(hostNetwork))
	if w.web() == nil || w.store.Snapshot().WorkloadByAddr(a) != nil {
		t.Error("a host-network pod is found by its node's address, or not at all")
	}
}

func TestRefusedPods(t *testing.T) {
	tests := []struct {
		name, field string
		edit        func(*corev1.Pod)
	}{
		{"no name", "metadata.name", func(p *corev1.Pod) { p.Name = "" }},
		{"no namespace", "metadata.namespace", func(p *corev1.Pod) { p.Namespace = "" }},
		{"no uid", "metadata.uid", uid("")},
		{"another's uid", "metadata.uid", func(p *corev1.Pod) { p.Name = "other" }},
		{"phase", "status.phase", dancing},
		{"address", "status.podIPs[1].ip", func(p *corev1.Pod) { p.Status.PodIPs[1].IP = "x" }},
		{"loopback", "status.podIP", func(p *corev1.Pod) { p.Status.PodIP = "127.0.0.1" }},
		{"mapped loopback", "status.podIP", func(p *corev1.Pod) { p.Status.PodIP = "::ffff:127.0.0.1" }},
		{"zone", "status.podIP", func(p *corev1.Pod) { p.Status.PodIP = "fe80::1%eth0" }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, enrolledShop, webPod())
			was := w.web()
			w.refuse(webPod(tt.edit), tt.field)
			if w.web() != was {
				t.Error("the last good one did not stay")
			}
			if len(w.tr.Problems()) == 0 {
				t.Error("the problem does not stand")
			}
			bad := webPod(tt.edit)
			if bad.Name == "web" && bad.Namespace == "shop" {
				w.put(webPod())
			} else {
				w.delete(bad)
			}
			if ps := w.tr.Problems(); len(ps) > 0 {
				t.Errorf("corrected, yet: %v", ps)
			}
		})
	}
	w := newWorld(t, enrolledShop, webPod())
	w.tr.Apply([]Event{{Object: webPod(uid("u2"), dancing)}})
	if len(w.tr.pods) != 0 {
		t.Error("a pod that was re-created, refused, leaves the former one's addresses in force")
	}
}

// TestRefusedPodNamesItsNode: nobody else need wait for it.
func TestRefusedPodNamesItsNode(t *testing.T) {
	w := newWorld(t)
	if ps := w.tr.Apply(events([]runtime.Object{webPod(dancing)})).Problems; len(ps) != 1 || ps[0].Node != "a" {
		t.Errorf("got %+v", ps)
	}
}

func TestLocalPodsOnlyOfThisNode(t *testing.T) {
	w := newWorld(t, enrolledShop, webPod(func(p *corev1.Pod) { p.Spec.NodeName = "" }))
	if len(w.tr.emitted.local) != 0 {
		t.Fatal("a pod not yet scheduled is local")
	}
	if r := w.put(webPod()); len(r.LocalPods) != 1 {
		t.Errorf("scheduled here: %+v", r.LocalPods)
	}
	other := webPod(uid("u9"), func(p *corev1.Pod) { p.Name, p.Spec.NodeName, p.Status.PodIPs = "b", "b", nil })
	if r := w.put(other); len(r.LocalPods) != 0 {
		t.Errorf("scheduled elsewhere: %+v", r.LocalPods)
	}
}

func TestUnreadKind(t *testing.T) {
	r := NewTranslator(Config{}).Apply([]Event{{Object: &corev1.ConfigMap{}, Source: "f:1"}})
	if len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Error(), "ConfigMap") {
		t.Errorf("got %v", r.Problems)
	}
}

// A node that calls a pod captured must not thereby get that pod's certificate: control reads the objects alone.
func TestIgnoreCaptured(t *testing.T) {
	for _, tt := range []struct {
		name string
		ns   runtime.Object
		want mesh.Capture
	}{
		{"a pod outside stays outside", namespace("shop"), mesh.Outside},
		{"an enrolled pod is in the mesh all the same", namespace("shop", KeyMesh, "enabled"), mesh.Pending},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &world{t: t, store: mesh.NewStore(), tr: NewTranslator(Config{IgnoreCaptured: true})}
			w.must(w.tr.Apply(events([]runtime.Object{tt.ns, webPod(published("true"))})))
			w.must(w.tr.Synced())
			if got := w.web().Capture; got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

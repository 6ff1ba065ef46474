// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
)

// directory is a manifest directory with a source that runs over it.
type directory struct {
	t   *testing.T
	dir string
	src *Source
}

func newDirectory(t *testing.T, files map[string]string) *directory {
	t.Helper()
	d := &directory{t: t, dir: t.TempDir()}
	for name, text := range files {
		d.write(name, text)
	}
	d.src = New(d.dir, kube.Config{Node: "a"}, nil)
	return d
}

func (d *directory) run() {
	d.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.src.Run(ctx) }()
	d.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			d.t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-d.src.Synced():
	case <-time.After(5 * time.Second):
		d.t.Fatal("not synced within 5 s")
	}
}

func (d *directory) write(name, text string) {
	d.t.Helper()
	if err := writeFile(filepath.Join(d.dir, name), []byte(text)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *directory) remove(name string) {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.dir, name)); err != nil {
		d.t.Fatal(err)
	}
}

// wait waits until the store satisfies want.
func (d *directory) wait(what string, want func(*mesh.Snapshot) bool) *mesh.Snapshot {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := d.src.Store().Wait(ctx, want)
	if err != nil {
		d.t.Fatalf("%s: %v; problems: %v", what, err, d.src.Problems())
	}
	return s
}

// problem waits for a problem whose text has all the parts.
func (d *directory) problem(parts ...string) kube.Problem {
	d.t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
	next:
		for _, p := range d.src.Problems() {
			for _, part := range parts {
				if !strings.Contains(p.Error(), part) {
					continue next
				}
			}
			return p
		}
		if time.Now().After(end) {
			d.t.Fatalf("no problem with %q; have %v", parts, d.src.Problems())
		}
	}
}

func (d *directory) noProblems() {
	d.t.Helper()
	for end := time.Now().Add(5 * time.Second); len(d.src.Problems()) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			d.t.Fatalf("problems stay: %v", d.src.Problems())
		}
	}
}

const webPod = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: u-web, labels: {app: web}}
spec:
  nodeName: a
  containers:
  - name: c
    ports: [{name: http, containerPort: 8080}]
status:
  phase: Running
  podIPs: [{ip: 10.0.0.5}, {ip: "fd00::5"}]
  conditions: [{type: Ready, status: "True"}]
`

const webService = `apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  clusterIP: 10.96.0.7
  clusterIPs: [10.96.0.7, "fd96::7"]
  ports: [{name: http, port: 80, targetPort: http}]
`

const shop = `apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {warren.dev/mesh: enabled}}
`

var web = mesh.Name{Namespace: "shop", Name: "web"}

const webUID = "Kubernetes//Pod/shop/web"

func TestSourceOrdinaryYAML(t *testing.T) {
	d := newDirectory(t, map[string]string{
		"shop/all.yaml": "# the shop\n---\n" + shop + "---\n" + webPod + "---\n" + webService,
		"shop/other.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {anything: goes}
`,
		"README.txt": "not a manifest: {",
	})
	d.run()
	s := d.src.Store().Snapshot()
	w := s.WorkloadByAddr(netip.MustParseAddr("fd00::5"))
	if w == nil || w.UID != webUID || w.Capture != mesh.Pending || !w.Ready {
		t.Fatalf("workload: got %+v", w)
	}
	if got := w.Services[web][80]; got != 8080 {
		t.Errorf("port 80: got %d, want the named container port 8080", got)
	}
	if eps := s.Endpoints(web); len(eps) != 1 {
		t.Errorf("endpoints: got %d, want 1", len(eps))
	}
	if v := s.ServiceByAddr(netip.MustParseAddr("fd96::7")); v == nil || v.Hostname != "web.shop.svc.cluster.local" {
		t.Errorf("service by address: got %+v", v)
	}
	pods, changed := d.src.LocalPods()
	if len(pods) != 1 || pods[0].UID != "u-web" || !pods[0].Enrolled || !pods[0].Running {
		t.Fatalf("local pods: got %+v", pods)
	}
	if ps := d.src.Problems(); len(ps) != 0 {
		t.Errorf("problems: %v", ps)
	}

	d.remove("shop/all.yaml")
	d.wait("everything goes with its file", func(s *mesh.Snapshot) bool {
		return s.Workload(webUID) == nil && s.Service(web) == nil
	})
	<-changed
	if pods, _ := d.src.LocalPods(); len(pods) != 0 {
		t.Errorf("local pods after removal: got %+v", pods)
	}
}

func TestSourceStatusIsCapture(t *testing.T) {
	d := newDirectory(t, map[string]string{"ns.yaml": shop, "pod.yaml": webPod})
	d.run()
	ctx := context.Background()
	publish := func(node, uid, value string) {
		t.Helper()
		p := &Publisher{Dir: d.dir, Node: node}
		if err := p.PublishCaptured(ctx, web, uid, value); err != nil {
			t.Fatal(err)
		}
	}
	captured := func(want mesh.Capture, reason string) func(*mesh.Snapshot) bool {
		return func(s *mesh.Snapshot) bool {
			w := s.Workload(webUID)
			return w != nil && w.Capture == want && w.CaptureReason == reason
		}
	}
	publish("a", "u-web", "true")
	s := d.wait("captured", captured(mesh.Captured, ""))
	if w := s.Workload(webUID); w.CapturedAt.IsZero() || !w.CapturedRunning {
		t.Errorf("captured at %v, running %v: want a time and true", w.CapturedAt, w.CapturedRunning)
	}
	publish("a", "u-web", "NoNetns")
	d.wait("failed", captured(mesh.Pending, "NoNetns"))
	publish("a", "u-web", "true")
	d.wait("captured again", captured(mesh.Captured, ""))
	publish("b", "u-web", "true")
	d.wait("another node's word does not count", captured(mesh.Pending, ""))
	publish("a", "u-web", "true")
	d.wait("captured once more", captured(mesh.Captured, ""))
	d.write("pod.yaml", strings.Replace(webPod, "u-web", "u-new", 1))
	d.wait("a re-created pod is not captured by its forerunner's status", func(s *mesh.Snapshot) bool {
		w := s.Workload(webUID)
		return w.PodUID == "u-new" && w.Capture == mesh.Pending
	})
	publish("a", "u-new", "true")
	d.wait("captured anew", captured(mesh.Captured, ""))
	publish("a", "u-web", "") // late: must not take the new one's status
	publish("a", "u-new", "")
	d.wait("withdrawn", captured(mesh.Pending, ""))
}

func TestSourceAnnotationInManifestDoesNotCount(t *testing.T) {
	pod := strings.Replace(webPod, "labels:", "annotations: {warren.dev/captured: 'true'}, labels:", 1)
	d := newDirectory(t, map[string]string{"ns.yaml": shop, "pod.yaml": pod})
	d.run()
	if w := d.src.Store().Snapshot().Workload(webUID); w == nil || w.Capture != mesh.Pending {
		t.Errorf("got %+v, want pending", w)
	}
}

func TestSourceRefusesByNameFileLineAndField(t *testing.T) {
	tests := []struct {
		name, from, to string
		want           []string
		field          string
	}{
		{"unknown field", "  nodeName: a", "  nodeNam: a", []string{"pod.yaml:5:", "Pod shop/web", `unknown field "spec.nodeNam"`}, "spec.nodeNam"},
		{"bad address", `"fd00::5"`, `"fd00::zz"`, []string{"pod.yaml:11:", "Pod shop/web", "status.podIPs[1].ip"}, "status.podIPs[1].ip"},
		{"wrong type", "  nodeName: a", "  hostNetwork: maybe", []string{"pod.yaml:5:", "Pod shop/web", "hostNetwork"}, "spec.hostNetwork"},
		{"no uid", "uid: u-web, ", "", []string{"pod.yaml:3:", "Pod shop/web", "metadata.uid: Required"}, "metadata.uid"},
		{"bad enum", "phase: Running", "phase: Dancing", []string{"pod.yaml:10:", "status.phase", "Running"}, "status.phase"},
		{"duplicate key", "  nodeName: a", "  nodeName: a\n  nodeName: b", []string{"pod.yaml:6", "nodeName"}, ""},
		{"syntax", "  nodeName: a", "  nodeName: [", []string{"pod.yaml"}, ""},
		{"old version", "apiVersion: v1", "apiVersion: v1beta1", []string{"pod.yaml:1:", "want v1"}, "apiVersion"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newDirectory(t, map[string]string{"ns.yaml": shop, "pod.yaml": webPod})
			d.src.PublishConditions(&Publisher{Dir: d.dir})
			d.run()
			bad := strings.Replace(webPod, tt.from, tt.to, 1)
			if bad == webPod {
				t.Fatal("the case changes nothing")
			}
			d.write("pod.yaml", bad)
			p := d.problem(tt.want...)
			if p.Field != tt.field {
				t.Errorf("field: got %q, want %q", p.Field, tt.field)
			}
			if w := d.src.Store().Snapshot().Workload(webUID); w == nil || len(w.Addresses) != 2 || w.Node != "a" {
				t.Errorf("the last good one did not stay: %+v", w)
			}
			if p.Object != "" {
				waitCondition(t, d.dir, p.Object, false)
			}
			d.write("pod.yaml", strings.Replace(webPod, "10.0.0.5", "10.0.0.6", 1))
			d.wait("corrected", func(s *mesh.Snapshot) bool { return s.WorkloadByAddr(netip.MustParseAddr("10.0.0.6")) != nil })
			d.noProblems()
			if p.Object != "" {
				waitCondition(t, d.dir, p.Object, true)
			}
			d.write("pod.yaml", bad)
			d.problem(tt.want...)
			d.remove("pod.yaml")
			d.wait("deleted", func(s *mesh.Snapshot) bool { return s.Workload(webUID) == nil })
			d.noProblems()
			if p.Object != "" {
				waitNoCondition(t, d.dir, p.Object)
			}
		})
	}
}

// TestSourceUnreadableNamespace: a process that starts with it does not take the namespace's pods for outside, as it does
// without the object.
func TestSourceUnreadableNamespace(t *testing.T) {
	for name, text := range map[string]string{
		"a wrong word":     strings.Replace(shop, "enabled", "on", 1),
		"an unknown field": shop + "spce: {}\n",
	} {
		t.Run(name, func(t *testing.T) {
			d := newDirectory(t, map[string]string{"ns.yaml": text, "pod.yaml": webPod})
			d.run()
			if w := d.src.Store().Snapshot().Workload(webUID); w == nil || w.Capture != mesh.Pending || w.CaptureReason != kube.EnrolmentUnreadable {
				t.Errorf("got %+v", w)
			}
			if n := d.src.Standing(); len(n.Outside) > 0 {
				t.Errorf("namespaces %+v", n)
			}
			d.problem("Namespace shop", "ns.yaml:")
			d.write("ns.yaml", shop)
			d.wait("corrected", func(s *mesh.Snapshot) bool { return s.Workload(webUID).CaptureReason == "" })
			d.write("ns.yaml", text)
			d.problem("Namespace shop", "ns.yaml:")
			if w := d.src.Store().Snapshot().Workload(webUID); w.CaptureReason != "" {
				t.Errorf("the last good one did not stay: %+v", w)
			}
			d.remove("ns.yaml")
			d.wait("the object is gone", func(s *mesh.Snapshot) bool { return s.Workload(webUID).Capture == mesh.Outside })
		})
	}
}

// TestSourceUnreadableEnrolment: the rest of the pod counts.
func TestSourceUnreadableEnrolment(t *testing.T) {
	d := newDirectory(t, map[string]string{"ns.yaml": shop, "pod.yaml": webPod})
	d.run()
	d.write("pod.yaml", strings.NewReplacer("labels: {app", "labels: {warren.dev/mesh: maybe, app", "10.0.0.5", "10.0.0.6").Replace(webPod))
	d.wait("the rest", func(s *mesh.Snapshot) bool { return s.WorkloadByAddr(netip.MustParseAddr("10.0.0.6")) != nil })
	if p := d.problem("pod.yaml:3:", "metadata.labels[warren.dev/mesh]", "enabled"); !p.Partial {
		t.Errorf("got %+v", p)
	}
}

// TestSourceForgetsConditionsOfAnEarlierProcess: also of what was deleted while nobody looked.
func TestSourceForgetsConditionsOfAnEarlierProcess(t *testing.T) {
	d := newDirectory(t, map[string]string{"ns.yaml": shop, "pod.yaml": webPod})
	p := &Publisher{Dir: d.dir}
	for _, object := range []string{"Pod shop/web", "Pod shop/gone"} {
		if err := p.PublishCondition(t.Context(), object, kube.Condition{Type: kube.ConditionAccepted, Reason: kube.ReasonInvalid}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.PublishCondition(t.Context(), "CertificateAuthority ca", kube.Condition{Type: "Ready"}); err != nil {
		t.Fatal(err)
	}
	d.src.PublishConditions(p)
	d.run()
	waitCondition(t, d.dir, "Pod shop/web", true)
	waitNoCondition(t, d.dir, "Pod shop/gone")
	if all, err := ReadConditions(d.dir); err != nil || len(all["CertificateAuthority ca"]) != 1 {
		t.Errorf("another's condition went: %v, %v", all, err)
	}
}

// TestSourceMeshConfig: it takes effect, a bad one changes nothing, and it says so.
func TestSourceMeshConfig(t *testing.T) {
	const good = "apiVersion: warren.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec:\n  mtls: {mode: STRICT}\n  drain: 5s\n"
	d := newDirectory(t, map[string]string{"ns.yaml": shop, "pod.yaml": webPod, "mesh.yaml": good})
	d.src.PublishConditions(&Publisher{Dir: d.dir})
	d.run()
	strict := func(want bool) func(*mesh.Snapshot) bool {
		return func(s *mesh.Snapshot) bool {
			return s.Config().MTLSStrict == want && (len(s.Workload(webUID).Policies) == 1) == want
		}
	}
	d.wait("STRICT", strict(true))
	waitCondition(t, d.dir, "MeshConfig default", true)
	for _, tt := range []struct{ from, to, field, line string }{
		{"5s", "15m", "spec.drain", "mesh.yaml:6"},
		{"STRICT", "NONE", "spec.mtls.mode", "mesh.yaml:5"},
		{"drain: 5s", "sameNodeTLS: perhaps", "spec.sameNodeTLS", "mesh.yaml:6"},
		{"drain: 5s", "drian: 5s", "spec.drian", "mesh.yaml:6"},
		{"name: default", "name: other", "metadata.name", "other.yaml:3"},
	} {
		bad := strings.Replace(good, tt.from, tt.to, 1)
		if tt.field == "metadata.name" {
			d.write("other.yaml", bad)
		} else {
			d.write("mesh.yaml", bad)
		}
		if p := d.problem(tt.line); p.Field != tt.field {
			t.Errorf("field %s, want %s", p.Field, tt.field)
		}
		if !strict(true)(d.src.Store().Snapshot()) {
			t.Errorf("%s: the last good one did not stay", tt.to)
		}
		if tt.field != "metadata.name" {
			waitCondition(t, d.dir, "MeshConfig default", false)
		}
		d.write("mesh.yaml", good)
		if tt.field == "metadata.name" {
			d.remove("other.yaml")
		}
		d.noProblems()
	}
	d.remove("mesh.yaml")
	d.wait("deleted", strict(false))
	waitNoCondition(t, d.dir, "MeshConfig default")
}

// TestSourceMeshConfigThatWasNeverGood: nobody can say what was promised, so plaintext is refused unless it says not.
func TestSourceMeshConfigThatWasNeverGood(t *testing.T) {
	for mode, want := range map[string]bool{"mode: STRICT": true, "mode: {}": true, "mode: PERMISSIVE": false, "": false} {
		d := newDirectory(t, map[string]string{"ns.yaml": shop, "pod.yaml": webPod,
			"mesh.yaml": "apiVersion: warren.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {mtls: {" + mode + "}, drian: 5s}\n"})
		d.src.PublishConditions(&Publisher{Dir: d.dir})
		d.run()
		if got := len(d.src.Store().Snapshot().Workload(webUID).Policies) == 1; got != want {
			t.Errorf("%q: strict %v, want %v", mode, got, want)
		}
		waitCondition(t, d.dir, "MeshConfig default", false)
	}
}

func waitNoCondition(t *testing.T, dir, object string) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		all, err := ReadConditions(dir)
		if err == nil && len(all[object]) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("conditions of %s stay: %+v, %v", object, all[object], err)
		}
	}
}

// TestSourceRefusedPolicyCloses: without a last good version, as after a restart, it refuses what it might.
func TestSourceRefusedPolicyCloses(t *testing.T) {
	const good = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x, namespace: shop}\nspec: {rules: [{}]}\n"
	bad := strings.Replace(good, "rules: [{}]", "rules: [{fro: []}]", 1)
	rules := func(n int) func(*mesh.Snapshot) bool {
		return func(s *mesh.Snapshot) bool {
			p := s.Policy(mesh.Name{Namespace: "shop", Name: "x"})
			return n < 0 && p == nil || p != nil && len(p.Rules) == n
		}
	}
	d := newDirectory(t, map[string]string{"ns.yaml": shop, "p.yaml": bad})
	d.run()
	d.wait("it allows nothing", rules(0))
	d.problem("p.yaml:4", "AuthorizationPolicy shop/x")
	d.write("p.yaml", good)
	d.wait("corrected", rules(1))
	d.write("p.yaml", bad)
	d.problem("p.yaml:4")
	if !rules(1)(d.src.Store().Snapshot()) {
		t.Error("the last good one did not stay")
	}
	d.remove("p.yaml")
	d.wait("deleted", rules(-1))
	d.write("p.yaml", strings.Replace(bad, "/v1", "/v1beta1", 1))
	d.wait("a version that is not read", rules(0))
	d.remove("p.yaml")
	d.wait("deleted before it was ever good", rules(-1))
	d.noProblems()
}

func waitCondition(t *testing.T, dir, object string, want bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		cs, err := ReadConditions(dir)
		if err != nil {
			t.Fatal(err)
		}
		c, ok := cs[object][kube.ConditionAccepted]
		if ok && c.Status == want && (want || strings.Contains(c.Message, ".yaml:")) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("condition of %s: got %+v, want status %v", object, cs[object], want)
		}
	}
}

func TestSourceDuplicate(t *testing.T) {
	d := newDirectory(t, map[string]string{"b.yaml": webService})
	d.run()
	d.write("c.yaml", "\n"+strings.Replace(webService, "10.96.0.7", "10.96.0.8", 2))
	p := d.problem("Service shop/web", "c.yaml:2", "b.yaml:1")
	if p.Field != "metadata.name" {
		t.Errorf("field: got %q", p.Field)
	}
	v6 := netip.MustParseAddr("10.96.0.8")
	if d.src.Store().Snapshot().ServiceByAddr(v6) != nil {
		t.Error("the second of two took over")
	}
	d.remove("b.yaml")
	d.wait("the other one takes over", func(s *mesh.Snapshot) bool { return s.ServiceByAddr(v6) != nil })
	d.noProblems()
}

func TestSourceUnreadablePartKeepsItsObjects(t *testing.T) {
	d := newDirectory(t, map[string]string{"all.yaml": shop + "---\n" + webPod + "---\n" + webService})
	d.run()
	d.write("all.yaml", shop+"---\nkind: [\n---\n"+strings.Replace(webService, "10.96.0.7", "10.96.0.9", 2))
	d.wait("what can be read applies", func(s *mesh.Snapshot) bool {
		return s.ServiceByAddr(netip.MustParseAddr("10.96.0.9")) != nil
	})
	if d.src.Store().Snapshot().Workload(webUID) == nil {
		t.Error("the pod went although nobody can tell what the broken document is")
	}
	d.problem("all.yaml:")
	d.write("all.yaml", shop)
	d.wait("now it goes", func(s *mesh.Snapshot) bool { return s.Workload(webUID) == nil })
}

func TestSourceEmptiedFileIsBeingWritten(t *testing.T) {
	d := newDirectory(t, map[string]string{"pod.yaml": webPod, "x.yaml": shop})
	d.run()
	if err := os.WriteFile(filepath.Join(d.dir, "pod.yaml"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d.write("svc.yaml", webService)
	s := d.wait("another file applies", func(s *mesh.Snapshot) bool { return s.Service(web) != nil })
	if s.Workload(webUID) == nil {
		t.Error("a file emptied a moment ago took its objects away")
	}
	d.wait("an empty file that stays empty has none", func(s *mesh.Snapshot) bool { return s.Workload(webUID) == nil })
}

func TestSourceLatency(t *testing.T) {
	d := newDirectory(t, map[string]string{"ns.yaml": shop, "sub/pod.yaml": webPod})
	d.run()
	for i := range 5 {
		_, changed := d.src.Store().Watch()
		start := time.Now()
		d.write("sub/pod.yaml", strings.Replace(webPod, "10.0.0.5", "10.0.1."+string(rune('1'+i)), 1))
		select {
		case <-changed:
			if took := time.Since(start); took > 500*time.Millisecond {
				t.Errorf("rename to store: %v (want well below 100ms on an idle machine)", took)
			} else {
				t.Logf("rename to store: %v", took)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("no change")
		}
	}
}

func TestSourceNewDirectory(t *testing.T) {
	d := newDirectory(t, nil)
	d.run()
	d.write("new/deep/pod.yaml", webPod)
	d.wait("a directory made later is watched", func(s *mesh.Snapshot) bool { return s.Workload(webUID) != nil })
	if err := os.RemoveAll(filepath.Join(d.dir, "new")); err != nil {
		t.Fatal(err)
	}
	d.wait("gone", func(s *mesh.Snapshot) bool { return s.Workload(webUID) == nil })
	d.write("new/deep/pod.yaml", webPod)
	d.wait("and back", func(s *mesh.Snapshot) bool { return s.Workload(webUID) != nil })
}

func TestRunNamesMissingDirectory(t *testing.T) {
	err := New(filepath.Join(t.TempDir(), "none"), kube.Config{}, nil).Run(context.Background())
	if err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("got %v", err)
	}
}

func TestBundle(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadBundle(dir); !os.IsNotExist(err) && err == nil {
		t.Errorf("missing bundle: got %v", err)
	}
	if err := Publish(BundlePath(dir), []byte("pem")); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadBundle(dir); err != nil || string(b) != "pem" {
		t.Errorf("got %q, %v", b, err)
	}
}

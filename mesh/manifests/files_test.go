// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
)

func at5(last int) string {
	return strings.Replace(webPod, "10.0.0.5", fmt.Sprint("10.0.0.", last), 1)
}

func hasAddr(a string) func(*mesh.Snapshot) bool {
	return func(s *mesh.Snapshot) bool { return s.WorkloadByAddr(netip.MustParseAddr(a)) != nil }
}

// A file written where it lies, with the same size, within one tick of the clock, is read again all the same.
func TestSourceWrittenInPlace(t *testing.T) {
	d := newDirectory(t, map[string]string{"ns.yaml": shop, "pod.yaml": webPod})
	d.run()
	path := filepath.Join(d.dir, "pod.yaml")
	for i := range 4 {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(at5(6+i%3)), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, st.ModTime(), st.ModTime()); err != nil {
			t.Fatal(err)
		}
		d.wait("written in place", hasAddr(fmt.Sprint("10.0.0.", 6+i%3)))
	}
}

// A mounted ConfigMap changes by one rename of a link to a directory.
func TestSourceMountedConfigMap(t *testing.T) {
	d := newDirectory(t, map[string]string{"ns.yaml": shop, "..one/pod.yaml": webPod, "..two/pod.yaml": at5(6)})
	link := func(target, name string) {
		t.Helper()
		tmp := filepath.Join(d.dir, "..tmp")
		if err := os.Symlink(target, tmp); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(d.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("..one", "..data")
	link("..data/pod.yaml", "pod.yaml")
	d.run()
	d.wait("through the links", hasAddr("10.0.0.5"))
	d.noProblems()
	start := time.Now()
	link("..two", "..data")
	d.wait("the links moved", hasAddr("10.0.0.6"))
	t.Logf("after %v", time.Since(start))
	d.noProblems()
}

func TestSourceIgnores(t *testing.T) {
	broken := "kind: ["
	d := newDirectory(t, map[string]string{
		".hidden.yaml": broken, ".git/x.yaml": broken, "x.yaml~": broken, "x.txt": broken,
		"status/notes.yaml": broken, "status/other/x.json": broken, "status/pods/shop/web.json": broken,
		"ns.yaml": shop, "pod.yaml": webPod, "both.json": `{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}}`,
	})
	if err := os.Mkdir(filepath.Join(d.dir, "dir.yaml"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(d.dir, "dangling.yaml")); err != nil {
		t.Fatal(err)
	}
	d.run()
	d.noProblems()
	if w := d.src.Store().Snapshot().Workload(webUID); w == nil || w.Capture != mesh.Pending {
		t.Errorf("got %+v", w)
	}
	if err := (&Publisher{Dir: d.dir, Node: "a"}).PublishCaptured(context.Background(), web, "u-web", "true"); err != nil {
		t.Fatal(err)
	}
	d.wait("a broken status was replaced", func(s *mesh.Snapshot) bool { return s.Workload(webUID).Capture == mesh.Captured })
}

func TestSourceDuplicateInOneFile(t *testing.T) {
	d := newDirectory(t, map[string]string{"a.yaml": shop + "---\n" + webPod + "---\n" + at5(6)})
	d.run()
	p := d.problem("Pod shop/web", "a.yaml:5")
	if !strings.HasPrefix(p.Source, "a.yaml:1") {
		t.Errorf("source: got %s, want the second one's line", p.Source)
	}
	if !hasAddr("10.0.0.5")(d.src.Store().Snapshot()) {
		t.Error("the first one is not in force")
	}
}

func TestSourceTooLarge(t *testing.T) {
	d := newDirectory(t, map[string]string{"ns.yaml": shop, "pod.yaml": webPod})
	d.run()
	d.write("pod.yaml", webPod+"#"+strings.Repeat("x", maxFile))
	d.problem("pod.yaml", "larger than")
	if !hasAddr("10.0.0.5")(d.src.Store().Snapshot()) {
		t.Error("the last good one did not stay")
	}
	d.write("pod.yaml", at5(6))
	d.wait("corrected", hasAddr("10.0.0.6"))
	d.noProblems()
}

func TestPartialIsToldAndApplied(t *testing.T) {
	d := newDirectory(t, map[string]string{"ns.yaml": shop, "pod.yaml": webPod})
	d.src.PublishConditions(&Publisher{Dir: d.dir})
	d.run()
	d.write("pa.yaml", `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: pa, namespace: shop}
spec:
  mtls: {mode: STRICT}
  portLevelMtls: {8080: {mode: DISABLE}}
`)
	d.wait("strict", func(s *mesh.Snapshot) bool {
		w := s.Workload(webUID)
		return len(w.Policies) == 1 && s.Policy(w.Policies[0]) != nil && s.Policy(w.Policies[0]).Strict
	})
	if p := d.problem("pa.yaml:6", "spec.portLevelMtls"); !p.Partial {
		t.Errorf("got %+v", p)
	}
	waitCondition(t, d.dir, "PeerAuthentication shop/pa", true)
	cs, err := ReadConditions(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	if c := cs["PeerAuthentication shop/pa"][kube.ConditionAccepted]; c.Reason != kube.ReasonPartial || !strings.Contains(c.Message, "portLevelMtls") {
		t.Errorf("got %+v", c)
	}
}

func TestPublisherRefusesNamesThatLeadOut(t *testing.T) {
	p := &Publisher{Dir: t.TempDir(), Node: "a"}
	for _, n := range []mesh.Name{{Namespace: "..", Name: "x"}, {Namespace: "a", Name: "../x"}, {Namespace: "", Name: "x"}, {Namespace: "a", Name: ".x"}} {
		if err := p.PublishCaptured(context.Background(), n, "u", "true"); err == nil {
			t.Errorf("%+v was written", n)
		}
	}
	if err := p.PublishCondition(context.Background(), "Pod a/..", kube.Condition{Type: "T"}); err != nil {
		t.Errorf("a name that stays inside: %v", err)
	}
	if err := p.PublishCondition(context.Background(), "Pod \x00", kube.Condition{Type: "T"}); err == nil {
		t.Error("a name with a zero byte was written")
	}
}

// BenchmarkOneOfMany: one pod of a thousand changes.
func BenchmarkOneOfMany(b *testing.B) {
	dir := b.TempDir()
	write := func(i, version int) {
		text := strings.NewReplacer("name: web,", fmt.Sprintf("name: web%d,", i), "u-web", fmt.Sprint("u", i),
			"10.0.0.5", fmt.Sprintf("10.%d.%d.%d", 1+version%250, i/250, 1+i%250), "fd00::5", fmt.Sprintf("fd00::%x", i+1)).Replace(webPod)
		if err := writeFile(filepath.Join(dir, fmt.Sprintf("pod%d.yaml", i)), []byte(text)); err != nil {
			b.Fatal(err)
		}
	}
	for i := range 1000 {
		write(i, 0)
	}
	if err := writeFile(filepath.Join(dir, "svc.yaml"), []byte(shop+"---\n"+webService)); err != nil {
		b.Fatal(err)
	}
	src := New(dir, kube.Config{Node: "a"}, nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	start := time.Now()
	go func() { done <- src.Run(ctx) }()
	<-src.Synced()
	b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms-to-sync")
	for i := 0; b.Loop(); i++ {
		_, changed := src.Store().Watch()
		write(i%1000, i+1)
		<-changed
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

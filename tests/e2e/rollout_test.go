// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/warren-mesh/warren/tests/e2e/testapp/answer"
)

// shortDrain is how long an ended ztunnel's connections may live on in these tests.
const shortDrain = 4 * time.Second

// TestRollingRestarts replaces the pods of each part, one after the other, as `kubectl rollout restart` does, under load
// and while pods start.
func TestRollingRestarts(t *testing.T) {
	b := newBusy(t, Alone(t))
	b.drain(t, shortDrain)
	for _, tt := range []struct {
		name   string
		resets int // of the connections that stay
	}{{controlName, 0}, {nodeName, 0}, {ztunnelName, 2}} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRollout(t, b.Mesh, tt.name)
			wire, load := b.Wire(t), b.load(t)
			starting := b.starting(t)
			r.restart()
			r.follow(starting.next)
			fresh, held := load.stop()
			starting.check()
			wire.Stop()
			t.Logf("rolled out in %v, old and new side by side on %v; %d new connections, longest silence %v; %d pods started",
				r.took.Round(time.Millisecond), r.both, fresh.OK, fresh.Longest.Round(time.Millisecond), starting.n)
			if tt.name != controlName {
				r.checkSideBySide()
			}
			checkFresh(t, fresh)
			checkHeld(t, held, tt.resets)
			for _, f := range held.Failures {
				r.checkDrained(f.At.Add(f.Took))
			}
			b.checkWire(t, wire)
		})
	}
}

// TestTakeOverWithoutCertificates replaces ztunnel's pods while control hangs: as long as the new one has no certificates it is
// not ready, and leaves every connection to the old one.
func TestTakeOverWithoutCertificates(t *testing.T) {
	// Of a few connections the old one, which is awake, may take all even if the new one accepts.
	const talking = 5 * time.Second
	b := newBusy(t, Alone(t))
	b.drain(t, shortDrain)
	r := newRollout(t, b.Mesh, ztunnelName)
	load := b.load(t)
	hung := b.Control(t).children()
	resume := sync.OnceFunc(func() { signal(t, syscall.SIGCONT, hung) })
	t.Cleanup(resume)
	signal(t, syscall.SIGSTOP, hung)
	r.restart()
	waits := func() (missing string) {
		for _, node := range b.Nodes() {
			if missing = b.Ztunnel(t, node).pending(r.old); missing == "certificates" {
				return ""
			}
		}
		return "what is pending: " + missing
	}
	Eventually(t, 30*time.Second, "a new ztunnel waits for its certificates", waits)
	for end := time.Now().Add(talking); time.Now().Before(end); {
		for _, server := range []string{"near:80", "far:80"} {
			if a := b.client.Talk("tcp4", server, b.marker, "-timeout", "2s"); !a.OK() {
				t.Fatalf("a new connection to %s: %+v", server, a)
			}
		}
	}
	if missing := waits(); missing != "" {
		t.Errorf("without control the new ztunnel waits no longer; %s", missing)
	}
	resume()
	r.follow(func() {})
	fresh, held := load.stop()
	t.Logf("rolled out in %v; %d new connections, longest silence %v", r.took.Round(time.Millisecond), fresh.OK, fresh.Longest.Round(time.Millisecond))
	r.checkSideBySide()
	checkFresh(t, fresh)
	if fresh.Longest > unheardOf {
		t.Errorf("no new connection for %v, want at most %v", fresh.Longest, unheardOf)
	}
	checkHeld(t, held, 2)
	for _, f := range held.Failures {
		r.checkDrained(f.At.Add(f.Took))
	}
}

// pending is what the readiness page of the node's newest pod says it lacks; "" of none that is newer than the old ones, or
// that lacks nothing.
func (p *Part) pending(old map[types.UID]bool) string {
	p.t.Helper()
	pods := p.Pods()
	if len(pods) == 0 || old[pods[0].UID] {
		return ""
	}
	list, err := p.mesh.ProcessesByUID(p.node, string(pods[0].UID))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, x := range list {
		if p.runs(x) {
			_, err := getFrom(p.t.Context(), fmt.Sprintf("/proc/%d/ns/net", x.PID), "http://localhost:15021/healthz/ready")
			if err == nil {
				return ""
			}
			_, tasks, _ := strings.Cut(err.Error(), "pending: ")
			return strings.TrimSpace(tasks)
		}
	}
	return ""
}

func checkFresh(t *testing.T, fresh answer.Load) {
	t.Helper()
	if fresh.OK == 0 || fresh.Failed > 0 {
		t.Errorf("of the new connections %d failed, %d did well: %+v", fresh.Failed, fresh.OK, fresh.Failures)
	}
}

// drain sets how long connections may live on, until the end of the test.
func (b *busy) drain(t *testing.T, d time.Duration) {
	t.Helper()
	const object = "apiVersion: warren.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\n"
	if err := b.Apply(t.Context(), object+fmt.Sprintf("spec: {drain: %v}\n", d)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Delete(context.Background(), object); err != nil {
			t.Error(err)
		}
	})
}

// rollout is the replacement of one part's pods.
type rollout struct {
	t    *testing.T
	mesh *Mesh
	name string
	old  map[types.UID]bool

	began time.Time
	took  time.Duration
	both  []string             // nodes where an old and a new one were ready at once
	told  map[string]time.Time // by node: when the old one was told to end, at most a second too early
}

func newRollout(t *testing.T, m *Mesh, name string) *rollout {
	t.Helper()
	r := &rollout{t: t, mesh: m, name: name, old: map[types.UID]bool{}, told: map[string]time.Time{}, began: time.Now()}
	for _, p := range r.pods() {
		r.old[p.UID] = true
	}
	return r
}

func (r *rollout) pods() []corev1.Pod {
	r.t.Helper()
	return (&Part{r.t, r.mesh, "", r.name, ""}).Pods()
}

// restart is `kubectl rollout restart`.
func (r *rollout) restart() {
	r.t.Helper()
	kind := "daemonset/"
	if r.name == controlName {
		kind = "deployment/"
	}
	if out, err := r.mesh.Kubectl(r.t.Context(), "rollout", "restart", "-n", system, kind+r.name).CombinedOutput(); err != nil {
		r.t.Fatalf("%v: %s", err, out)
	}
}

// follow looks until every old pod is gone and every new one ready; meanwhile it does each time what is given.
func (r *rollout) follow(meanwhile func()) {
	r.t.Helper()
	Eventually(r.t, 2*time.Minute, r.name+" is rolled out", func() string {
		missing := r.look()
		if missing != "" {
			meanwhile()
		}
		return missing
	})
	r.took = time.Since(r.began)
}

func (r *rollout) look() (missing string) {
	pods := r.pods()
	old, fresh := 0, map[string]bool{}
	for _, p := range pods {
		if !r.old[p.UID] && p.DeletionTimestamp == nil {
			if why := unready(p, ""); why != "" {
				missing = p.Name + " is " + why
				continue
			}
			fresh[p.Spec.NodeName] = true
		}
	}
	for _, p := range pods {
		if !r.old[p.UID] {
			continue
		}
		old++
		node := p.Spec.NodeName
		if _, told := r.told[node]; p.DeletionTimestamp != nil && !told {
			r.told[node] = toldToEnd(p)
		}
		if fresh[node] && !slices.Contains(r.both, node) {
			r.both = append(r.both, node)
		}
	}
	switch {
	case old > 0:
		return fmt.Sprintf("%d old pods are there", old)
	case missing == "" && len(fresh) == 0:
		return "no new pod"
	}
	return missing
}

func (r *rollout) checkSideBySide() {
	r.t.Helper()
	if len(r.both) != len(r.mesh.Nodes()) {
		r.t.Errorf("old and new %s were ready side by side on %v, want on every node", r.name, r.both)
	}
}

// toldToEnd is when somebody deleted a pod, rounded down to the second as the API server's stamps are.
func toldToEnd(p corev1.Pod) time.Time {
	return p.DeletionTimestamp.Add(-time.Duration(*p.DeletionGracePeriodSeconds) * time.Second)
}

// checkDrained takes the end of an established connection: not before a ztunnel had its time to drain.
func (r *rollout) checkDrained(end time.Time) {
	r.t.Helper()
	first, last := time.Time{}, time.Time{}
	for _, at := range r.told {
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	const rounded = time.Second
	if end.Before(first.Add(shortDrain)) || end.After(last.Add(rounded+shortDrain+2*time.Second)) {
		r.t.Errorf("an established connection ended at %v, want it %v after a ztunnel was told to end: told at %v", end, shortDrain, r.told)
	}
}

// starting is pods that start meanwhile, and connect in their first millisecond.
type starting struct {
	t    *testing.T
	b    *busy
	name string
	n    int
	last time.Time
}

const (
	startEvery = 700 * time.Millisecond
	startMost  = 8
)

func (b *busy) starting(t *testing.T) *starting {
	return &starting{t: t, b: b, name: "first-" + rand.String(5)}
}

// next starts one when it is time, on each node in turn.
func (s *starting) next() {
	s.t.Helper()
	if s.n == startMost || time.Since(s.last) < startEvery {
		return
	}
	nodes := s.b.Nodes()
	s.last = time.Now()
	app := App{Name: s.name, Node: nodes[s.n%len(nodes)], Args: []string{"talk", "-stay", s.b.far.Addr("tcp4", EchoPort).String(), s.b.marker}}
	template := s.b.ns.In(s.t).Template(app)
	p := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	p.Name = fmt.Sprint(s.name, "-", s.n)
	if _, err := s.b.Client().CoreV1().Pods(s.b.ns.Name).Create(s.t.Context(), p, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	s.n++
}

// check waits until all run, are captured, and have been answered at the first try.
func (s *starting) check() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), deployWithin)
	defer cancel()
	found, err := s.b.watchPods(ctx, s.b.ns.Name, "app="+s.name, func(all []corev1.Pod) string {
		for _, p := range all {
			if missing := unready(p, "true"); missing != "" {
				return p.Name + ": " + missing
			}
		}
		return ""
	})
	if err != nil {
		s.t.Errorf("pods that started meanwhile: %v", err)
		return
	}
	for _, o := range found {
		p := s.b.pod(s.t, o)
		var a answer.Talk
		Eventually(s.t, 15*time.Second, p.Name+" has said how it went", func() string {
			if err := json.Unmarshal([]byte(p.Logs()), &a); err != nil {
				return err.Error()
			}
			return ""
		})
		if !a.OK() {
			s.t.Errorf("the first connection of %s: %+v", p, a)
		}
	}
}

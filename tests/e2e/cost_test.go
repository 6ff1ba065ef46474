// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// massPods is how many pods are enrolled at once, in equal numbers on the nodes.
	massPods = 100
	// massWithin is how long it may take until they are captured, on a machine that does other things as well.
	massWithin = time.Minute
	// massMemory is what a captured pod may cost, in KiB of a part's resident memory. The least of them holds a listener's
	// sockets and a certificate.
	massMemory = 1024
)

// TestEnrolManyPods enrols a namespace in which pods run already.
func TestEnrolManyPods(t *testing.T) {
	c := enrolMany(t, Alone(t)) // so many pods at once would hold up everybody
	t.Logf("%d pods captured after %v\n%s", massPods, c.took.Round(time.Millisecond), c.table())
	for _, p := range c.parts {
		if each := (p.after - p.before) * int64(len(p.mesh.Nodes())) / massPods; each > massMemory {
			t.Errorf("%s on %s: each captured pod costs %d KiB, want at most %d", p.main, p.node, each, massMemory)
		}
	}
}

// massCost is what it cost to enrol many pods.
type massCost struct {
	took  time.Duration
	parts []partCost
}

type partCost struct {
	*Part
	before, after int64 // resident, KiB
}

func enrolMany(t testing.TB, m *Mesh) massCost {
	t.Helper()
	ns := m.Namespace(t, "many")
	var apps []App
	for _, node := range m.Nodes() {
		apps = append(apps, App{Name: "idle-" + node, Account: "idle", Node: node, Replicas: massPods / len(m.Nodes()), Args: []string{"sleep", "1h"}})
	}
	ns.Deploy(apps...)
	var c massCost
	for _, node := range m.Nodes() {
		for _, p := range []*Part{m.Agent(t, node), m.Broker(t, node), m.Ztunnel(t, node)} {
			c.parts = append(c.parts, partCost{Part: p, before: p.resident()})
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), massWithin)
	defer cancel()
	began := time.Now()
	ns.Enrol(true)
	_, err := m.watchPods(ctx, ns.Name, "", func(all []corev1.Pod) string {
		captured := 0
		for _, p := range all {
			if p.Annotations[capturedAnnotation] == "true" {
				captured++
			}
		}
		if captured < massPods {
			return fmt.Sprintf("%d of %d pods are captured", captured, massPods)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	c.took = time.Since(began)
	for i, p := range c.parts {
		c.parts[i].after = p.resident()
	}
	return c
}

func (c massCost) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "| part | node | before MiB | with %d pods | KiB a pod |\n|---|---|---|---|---|\n", massPods/len(c.parts[0].mesh.Nodes()))
	for _, p := range c.parts {
		each := (p.after - p.before) * int64(len(p.mesh.Nodes())) / massPods
		fmt.Fprintf(&b, "| %s | %s | %.1f | %.1f | %d |\n", p.main, p.node, float64(p.before)/1024, float64(p.after)/1024, each)
	}
	return b.String()
}

// resident is the memory of the part's processes, the supervisor's included, in KiB.
func (p *Part) resident() (sum int64) {
	p.t.Helper()
	for _, pid := range p.PIDs() {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			p.t.Fatal(err)
		}
		for line := range strings.Lines(string(status)) {
			var n int64
			if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &n); err == nil {
				sum += n
			}
		}
	}
	return sum
}

// startedPods is how many pods of each kind BenchmarkCluster starts, one after the other.
const startedPods = 50

// BenchmarkCluster prints what Warren costs on a cluster: enrolment, memory, and the start of pods, those in the mesh and
// those outside in turns. See docs/benchmarks.md.
func BenchmarkCluster(b *testing.B) {
	m := get(b)
	for b.Loop() {
		c := enrolMany(b, m)
		fmt.Printf("\nenrolment of %d running pods: all captured after %.2f s\n\n%s\n", massPods, c.took.Seconds(), c.table())
		benchStarts(b, m)
	}
}

func benchStarts(b *testing.B, m *Mesh) {
	in, out := m.Namespace(b, "started-in", Enrolled()), m.Namespace(b, "started-out")
	took := map[*Namespace][]time.Duration{}
	for i := range startedPods {
		for _, ns := range []*Namespace{in, out} {
			took[ns] = append(took[ns], ns.start(fmt.Sprint("pod-", i), m.Nodes()[0]))
		}
	}
	answers := m.Agent(b, m.Nodes()[0]).answers(in.Name)
	if len(answers) < startedPods {
		b.Fatalf("the agent answered %d plugins, want %d", len(answers), startedPods)
	}
	fmt.Printf("| start of %d pods, one after the other | p50 ms | p99 ms |\n|---|---|---|\n", startedPods)
	o, i := took[out], took[in]
	fmt.Printf("| outside the mesh | %d | %d |\n", quantile(o, 50).Milliseconds(), quantile(o, 99).Milliseconds())
	fmt.Printf("| in the mesh | %d (%.2f) | %d (%.2f) |\n", quantile(i, 50).Milliseconds(), ratio(i, o, 50), quantile(i, 99).Milliseconds(), ratio(i, o, 99))
	fmt.Printf("| of it, waiting for capture | %d | %d |\n\n", quantile(answers, 50).Milliseconds(), quantile(answers, 99).Milliseconds())
}

// start makes a pod and returns how long it took until the API server called it Running.
func (n *Namespace) start(name, node string) time.Duration {
	n.t.Helper()
	t := n.Template(App{Name: name, Account: "idle", Node: node, Args: []string{"sleep", "1h"}})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: n.Name, Labels: t.Labels}, Spec: t.Spec}
	ctx, cancel := context.WithTimeout(n.t.Context(), deployWithin)
	defer cancel()
	began := time.Now()
	_, err := n.mesh.Client().CoreV1().Pods(n.Name).Create(ctx, pod, metav1.CreateOptions{})
	if err == nil {
		_, err = n.mesh.watchPods(ctx, n.Name, "app="+name, func(all []corev1.Pod) string {
			if len(all) == 0 || all[0].Status.Phase != corev1.PodRunning {
				return name + " does not run"
			}
			return ""
		})
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return time.Since(began)
}

var answered = regexp.MustCompile(`msg="CNI plugin" op=add pod=(\S+)/\S+ .* took=(\S+)`)

// answers is how long the agent let the plugins of a namespace's pods wait.
func (p *Part) answers(namespace string) (out []time.Duration) {
	p.t.Helper()
	for _, f := range answered.FindAllStringSubmatch(p.Log(), -1) {
		if d, err := time.ParseDuration(f[2]); err == nil && f[1] == namespace {
			out = append(out, d)
		}
	}
	return out
}

func quantile(all []time.Duration, percent int) time.Duration {
	all = slices.Clone(all)
	slices.SortFunc(all, cmp.Compare[time.Duration])
	return all[min(len(all)*percent/100, len(all)-1)]
}

func ratio(a, b []time.Duration, percent int) float64 {
	return float64(quantile(a, percent)) / float64(quantile(b, percent))
}

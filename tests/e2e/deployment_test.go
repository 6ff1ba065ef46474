// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/warren-mesh/warren/tests/cluster"
	"github.com/warren-mesh/warren/tests/e2e/testapp/answer"
)

const (
	rolls    = 10
	replicas = 4
	preStop  = 5 // s
)

// TestDeploymentRolls rolls a Deployment in the mesh and its like outside of it ten times under load, then scales both up
// and down, at the same time: what happens to the machine happens to both. In the mesh no more requests fail.
func TestDeploymentRolls(t *testing.T) {
	m := SharedForLong(t)
	meshed, bare := newRolled(t, m, "rolled", Enrolled()), newRolled(t, m, "bare")
	both := func(what string, do func(context.Context, *rolled) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for i, r := range []*rolled{meshed, bare} {
			wg.Go(func() { errs[i] = do(ctx, r) })
		}
		wg.Wait()
		if err := errorsOf(errs...); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	began := time.Now()
	for i := range rolls {
		both(fmt.Sprint("roll ", i+1), func(ctx context.Context, r *rolled) error {
			return r.patch(ctx, `{"spec":{"template":{"metadata":{"annotations":{"roll":"%d"}}}}}`, i)
		})
	}
	t.Logf("%d rolls took %v", rolls, time.Since(began).Round(time.Millisecond))
	for _, n := range []int{2 * replicas, replicas / 2, replicas} {
		both(fmt.Sprint("scale to ", n), func(ctx context.Context, r *rolled) error { return r.patch(ctx, `{"spec":{"replicas":%d}}`, n) })
	}
	meshed.ns.Wait(App{Name: "server", Replicas: replicas}) // which are captured
	// A connection that stays sees a pod of each roll, at least.
	enough := [2]int{rolls * replicas / 2, rolls}
	for i, how := range []string{"new connections", "keep-alive"} {
		in, out := meshed.loads[i].Stop(), bare.loads[i].Stop()
		for where, a := range map[string]answer.Load{"in the mesh": in, "without": out} {
			t.Logf("%s %s: %d requests to %d pods, %d failed, p50 %v, p99 %v, longest silence %v", how, where, a.OK, len(a.Pods), a.Failed,
				a.P50.Round(10*time.Microsecond), a.P99.Round(10*time.Microsecond), a.Longest.Round(time.Millisecond))
			if len(a.Pods) < enough[i] {
				t.Errorf("%s %s: %d pods answered: this is no load on what was rolled", how, where, len(a.Pods))
			}
		}
		if in.Failed > out.Failed {
			t.Errorf("%s: %d failed in the mesh, %d without: %+v", how, in.Failed, out.Failed, in.Failures)
		}
	}
}

// rolled is a Deployment with a client that asks it all the time: by a new connection each time, and by some that stay.
type rolled struct {
	ns    *Namespace
	loads [2]*Load
}

func newRolled(t *testing.T, m *Mesh, name string, options ...NamespaceOption) *rolled {
	t.Helper()
	r := &rolled{ns: m.Namespace(t, name, options...)}
	r.ns.Service(Service{Name: "server", Ports: []Port{{80, HTTPPort}}})
	// A pod is told to end while others may still send to it: what is customary for that is to go on for a while.
	linger := func(p *corev1.PodTemplateSpec) {
		grace := int64(2 * preStop)
		p.Spec.TerminationGracePeriodSeconds = &grace
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: preStop}}}
	}
	server := App{Name: "server", Replicas: replicas, Serve: []string{fmt.Sprint("http=:", HTTPPort)}, Change: linger}
	pods := r.ns.Deploy(App{Name: "client", Node: m.Nodes()[0]}, server)
	on := map[string]int{}
	for _, p := range pods[1:] {
		on[p.Node]++
	}
	if len(on) != 2 {
		t.Errorf("the pods run on %v, want both nodes", on)
	}
	// All new ones at once, and no old one before these are ready: a roll takes no longer than a pod's start.
	if err := r.patch(t.Context(), `{"spec":{"strategy":{"rollingUpdate":{"maxSurge":"100%%","maxUnavailable":0}}}}`); err != nil {
		t.Fatal(err)
	}
	Eventually(t, 2*told, "the service answers", func() string {
		if _, err := pods[0].Get("tcp", "http://server/"); err != nil {
			return err.Error()
		}
		return ""
	})
	for i, keep := range []string{"-keep=false", "-keep=true"} {
		r.loads[i] = pods[0].Load(keep, "-every", "40ms", "-workers", "8", "http://server/")
	}
	return r
}

// patch changes the Deployment and waits until it is rolled out.
func (r *rolled) patch(ctx context.Context, format string, a ...any) error {
	_, err := r.ns.mesh.Client().AppsV1().Deployments(r.ns.Name).Patch(ctx, "server", types.StrategicMergePatchType, fmt.Appendf(nil, format, a...), metav1.PatchOptions{})
	if err != nil {
		return err
	}
	return r.ns.mesh.Wait(ctx, r.ns.Name, "deployments/server", cluster.RolledOut())
}

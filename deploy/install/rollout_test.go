// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// world is what an API server has of an installation: nodes n0, n1 and so on, on each the pods of one DaemonSet.
type world struct {
	client *fake.Clientset
	set    *appsv1.DaemonSet
}

const setUID = types.UID("set")

// newWorld has a node for each word, ready or not, and no pods.
func newWorld(t *testing.T, ready ...bool) *world {
	t.Helper()
	w := &world{client: fake.NewClientset()}
	w.set = &appsv1.DaemonSet{
		ObjectMeta: named("warren-node", "warren-node"),
		Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app.kubernetes.io/name": "warren-node"}}},
		Status:     appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: int32(len(ready))},
	}
	w.set.UID, w.set.Generation = setUID, 1
	w.add(t, w.set, revision("before", 1), revision("new", 3), revision("old", 2)) // as they are listed
	for i, r := range ready {
		w.add(t, node(i, r))
	}
	return w
}

// named are the metadata of an object of ours in Warren's namespace.
func named(name, app string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: Namespace, Labels: map[string]string{
		"app.kubernetes.io/name": app, "app.kubernetes.io/part-of": "warren",
	}}
}

func revision(hash string, n int64) *appsv1.ControllerRevision {
	r := &appsv1.ControllerRevision{ObjectMeta: named("warren-node-"+hash, "warren-node"), Revision: n}
	r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = hash
	r.OwnerReferences = []metav1.OwnerReference{{UID: setUID, Controller: new(true)}}
	return r
}

func (w *world) add(t *testing.T, objects ...runtime.Object) {
	t.Helper()
	for _, o := range objects {
		if err := w.client.Tracker().Add(o); err != nil {
			t.Fatal(err)
		}
	}
}

func node(i int, ready bool) *corev1.Node {
	status := corev1.ConditionTrue
	if !ready {
		status = corev1.ConditionUnknown
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i)},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}},
	}
}

// pod is one of an app's on a node; one of a DaemonSet has a hash.
func pod(app, node, hash string, ready bool) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: named(strings.Join([]string{app, node, hash}, "-"), app), Spec: corev1.PodSpec{NodeName: node}}
	if hash != "" {
		p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = hash
	}
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	p.Status.Conditions = []corev1.PodCondition{
		{Type: corev1.PodReady, Status: status},
		{Type: corev1.ContainersReady, Status: status, Message: "containers with unready status: [main]"},
	}
	return p
}

// replace ends the old pod of a node, whose successor is ready.
func (w *world) replace(t *testing.T, i int) {
	node := fmt.Sprintf("n%d", i)
	w.add(t, pod("warren-node", node, "new", true))
	err := w.client.CoreV1().Pods(Namespace).Delete(context.Background(), pod("warren-node", node, "old", true).Name, metav1.DeleteOptions{})
	if err != nil {
		t.Error(err)
	}
}

func TestPartsOnReadyNodes(t *testing.T) {
	all := func(hash string, ready bool, nodes ...int) []runtime.Object {
		var out []runtime.Object
		for _, n := range nodes {
			out = append(out, pod("warren-node", fmt.Sprintf("n%d", n), hash, ready))
		}
		return out
	}
	for _, tt := range []struct {
		name    string
		away    []int // nodes that are not ready, of three
		pods    []runtime.Object
		unseen  bool   // the controller has not seen the newest generation
		pending string // how the one pending part is described
		says    string // what a pod complains of, too
	}{
		{name: "all new and ready", pods: all("new", true, 0, 1, 2)},
		{name: "one is old", pods: append(all("new", true, 0, 1), all("old", true, 2)...), pending: "of 3 pods 2 are new, 2 of them ready"},
		{name: "an old one drains beside its successor", pods: append(all("new", true, 0, 1, 2), all("old", true, 1)...), pending: "of 3 pods 2 are new, 2 of them ready"},
		{name: "one is not ready", pods: append(all("new", true, 0, 1), all("new", false, 2)...), pending: "of 3 pods 3 are new, 2 of them ready", says: "warren-node-n2-new on n2: containers"},
		{name: "one is missing", pods: all("new", true, 0, 1), pending: "of 3 pods 2 are new, 2 of them ready"},
		{name: "a node is away with its old pod", away: []int{2}, pods: append(all("new", true, 0, 1), all("old", false, 2)...)},
		{name: "and with its new one, which hides no old one elsewhere", away: []int{2}, pods: append(all("new", true, 0), append(all("new", false, 2), all("old", true, 1)...)...), pending: "of 2 pods 1 are new, 1 of them ready"},
		{name: "all nodes are away", away: []int{0, 1, 2}, pods: all("new", false, 0, 1, 2), pending: "no node with a pod of it is ready"},
		{name: "not observed", unseen: true, pods: all("new", true, 0, 1, 2), pending: "not looked at yet"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, !slices.Contains(tt.away, 0), !slices.Contains(tt.away, 1), !slices.Contains(tt.away, 2))
			w.add(t, tt.pods...)
			if tt.unseen {
				w.set.Generation++
				if err := w.client.Tracker().Update(sets, w.set, Namespace); err != nil {
					t.Fatal(err)
				}
			}
			r, err := lookAt(t.Context(), w.client)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(r.pending(), "; ")
			switch {
			case tt.pending == "" && got != "":
				t.Errorf("pending: %s", got)
			case !strings.Contains(got, tt.pending) || !strings.Contains(got, tt.says):
				t.Errorf("pending: %q, want %q and %q", got, tt.pending, tt.says)
			case tt.says == "" && strings.Contains(got, "unready"):
				t.Errorf("somebody is said to complain: %s", got)
			}
			if len(r.away) != len(tt.away) {
				t.Errorf("away: %v, want %v", r.away, tt.away)
			}
		})
	}
}

var (
	sets = appsv1.SchemeGroupVersion.WithResource("daemonsets")
	pods = corev1.SchemeGroupVersion.WithResource("pods")
)

func TestDeploymentOnReadyNodes(t *testing.T) {
	for _, tt := range []struct {
		name    string
		status  appsv1.DeploymentStatus
		pending string
	}{
		{"all there", appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2}, ""},
		{"one on a node that is away", appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 1}, ""},
		{"none answers", appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 2}, "of 2 pods 2 are new, 0 of them ready"},
		{"an old one is left", appsv1.DeploymentStatus{Replicas: 3, UpdatedReplicas: 2, AvailableReplicas: 3}, "of 2 pods 2 are new; 1 old"},
		{"the first new one", appsv1.DeploymentStatus{Replicas: 3, UpdatedReplicas: 1, AvailableReplicas: 3}, "of 2 pods 1 are new; 2 old"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, true, false)
			w.set.Status.DesiredNumberScheduled = 0
			if err := w.client.Tracker().Update(sets, w.set, Namespace); err != nil {
				t.Fatal(err)
			}
			d := &appsv1.Deployment{
				ObjectMeta: named("warren-control", "warren-control"),
				Spec: appsv1.DeploymentSpec{Replicas: new(int32(2)), Selector: &metav1.LabelSelector{
					MatchLabels: map[string]string{"app.kubernetes.io/name": "warren-control"},
				}},
				Status: tt.status,
			}
			w.add(t, d, pod("warren-control", "n0", "", true), pod("warren-control", "n1", "", false))
			r, err := lookAt(t.Context(), w.client)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(r.pending(), "; "); !strings.Contains(got, tt.pending) || tt.pending == "" && got != "" {
				t.Errorf("pending: %q, want %q", got, tt.pending)
			}
		})
	}
}

// TestWaitTakesAsLongAsItGoesForward rolls 20 nodes, each within the limit and all of them not.
func TestWaitTakesAsLongAsItGoesForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nodes, each, limit = 20, 30 * time.Second, time.Minute
		w := newWorld(t, slices.Repeat([]bool{true}, nodes)...)
		for i := range nodes {
			w.add(t, pod("warren-node", fmt.Sprintf("n%d", i), "old", true))
		}
		go func() {
			for i := range nodes {
				time.Sleep(each)
				w.replace(t, i)
			}
		}()
		began := time.Now()
		away, err := waitReady(t.Context(), w.client, limit, nil)
		if took := time.Since(began); err != nil || len(away) > 0 || took < nodes*each || took > nodes*each+time.Second {
			t.Errorf("after %v: %v, away %v", took, err, away)
		}
	})
}

// TestWaitEnds when nothing goes forward: a pod that comes and goes, too, and an API server that does not answer.
func TestWaitEnds(t *testing.T) {
	const limit = time.Minute
	for _, tt := range []struct {
		name string
		lead func(context.Context, *testing.T, *world)
		want string
	}{
		{"nothing changes", func(context.Context, *testing.T, *world) {}, "of 3 pods 2 are new, 2 of them ready"},
		{"a pod comes and goes", func(ctx context.Context, t *testing.T, w *world) {
			go func() {
				for ready := false; ; ready = !ready {
					if err := w.client.Tracker().Update(pods, pod("warren-node", "n2", "new", ready), Namespace); err != nil {
						t.Error(err)
					}
					select {
					case <-ctx.Done():
						return
					case <-time.After(7 * time.Second):
					}
				}
			}()
		}, "of 3 pods 2 are new"},
		{"the API server fails", func(_ context.Context, _ *testing.T, w *world) {
			w.client.PrependReactor("list", "nodes", func(k8stesting.Action) (bool, runtime.Object, error) {
				return true, nil, errors.New("overloaded")
			})
		}, "overloaded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, true, true, true)
				w.add(t, pod("warren-node", "n0", "new", true), pod("warren-node", "n1", "old", true), pod("warren-node", "n2", "new", true))
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				tt.lead(ctx, t, w)
				began := time.Now()
				_, err := waitReady(ctx, w.client, limit, nil)
				if took := time.Since(began); took < limit || took > 2*limit {
					t.Errorf("it took %v", took)
				}
				if err == nil || !strings.Contains(err.Error(), "nothing has gone forward for 1m0s") || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want something about %q", err, tt.want)
				}
			})
		})
	}
}

// TestWaitNamesNodesThatAreAway and does not fail for them.
func TestWaitNamesNodesThatAreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, false)
		w.add(t, pod("warren-node", "n0", "old", true), pod("warren-node", "n1", "new", false))
		go func() {
			time.Sleep(10 * time.Second)
			w.replace(t, 0)
		}()
		var out strings.Builder
		away, err := waitReady(t.Context(), w.client, time.Minute, &out)
		const want = "not waited for, since they are not ready: n1\nwaiting: warren-node (of 1 pods 0 are new, 0 of them ready)\n"
		if err != nil || !slices.Equal(away, []string{"n1"}) || out.String() != want {
			t.Errorf("got %v, away %v, said:\n%s", err, away, out.String())
		}
	})
}

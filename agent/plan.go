// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"maps"
	"os"
	"reflect"
	"slices"
	"time"

	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/kube"
)

// step is one thing to do. The set is closed: capture, release, serve, unserve, publish.
type step interface{ pod() string }

// capture tells the broker to hold a pod, and hands over the network namespace if the CNI plugin opened it.
type capture struct {
	broker.Capture
	netns *os.File
}

// release tells the broker to let a pod go: new connections go direct at once, live tunnels last until they
// end or the drain deadline.
type release struct{ uid string }

// serve tells ztunnel of a pod, unserve that it is gone.
type serve struct{ workload kube.LocalPod }
type unserve struct{ uid string }

// publish tells the mesh what a pod's capture came to.
type publish struct {
	target kube.LocalPod
	value  string
}

func (s capture) pod() string { return s.UID }
func (s release) pod() string { return s.uid }
func (s serve) pod() string   { return s.workload.UID }
func (s unserve) pod() string { return s.uid }
func (s publish) pod() string { return s.target.UID }

// plan brings the tracked pods to now and returns the steps that follow, and when to look again (zero: when
// something happens). The order of a pod's steps is the order of "How a pod joins": the broker first, then
// ztunnel, and published last; leaving runs backwards in that new connections go direct first.
func plan(pods map[string]*tracked, now time.Time, drain time.Duration) (steps []step, wake time.Time) {
	for _, uid := range slices.Sorted(maps.Keys(pods)) {
		t := pods[uid]
		switch {
		case t.wanted(), t.outlives() && t.sent == nil:
			steps = append(steps, t.join()...)
		case t.outlives():
		default:
			steps = append(steps, t.leave(uid, now, drain)...)
		}
		if v := t.publication(); t.exists && v != t.published {
			if now.Before(t.correctAt) {
				wake = earlier(wake, t.correctAt)
			} else {
				t.published, t.said = v, v
				steps = append(steps, publish{target: t.pod, value: v})
			}
		}
		if !t.exists && t.sent == nil {
			if t.netns != nil {
				t.netns.Close()
			}
			delete(pods, uid)
			continue
		}
		if !t.drainUntil.IsZero() {
			wake = earlier(wake, t.drainUntil)
		}
	}
	return steps, wake
}

// earlier returns the earlier time; zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

func (t *tracked) join() []step {
	var steps []step
	if !t.drainUntil.IsZero() { // enrolled again while it was being released
		t.drainUntil, t.sent, t.kernel = time.Time{}, nil, nil
	}
	want := t.capture()
	if t.sent == nil || t.netns != nil || !reflect.DeepEqual(*t.sent, want) {
		steps = append(steps, capture{want, t.netns})
		t.sent, t.netns = &want, nil
	}
	if !t.served {
		t.served, t.acked, t.ackError = true, false, ""
		steps = append(steps, serve{t.pod})
	}
	return steps
}

// leave releases a pod. ztunnel keeps serving it until the broker reports it gone, or the drain deadline if
// that word never comes; a pod whose object is gone has nothing left to drain.
func (t *tracked) leave(uid string, now time.Time, drain time.Duration) []step {
	var steps []step
	if t.sent == nil {
		return nil
	}
	if t.drainUntil.IsZero() {
		t.drainUntil, t.kernel = now.Add(drain), nil
		steps = append(steps, release{uid})
	}
	if t.exists && now.Before(t.drainUntil) && (t.kernel == nil || !t.kernel.Gone) {
		return steps
	}
	*t = tracked{
		pod: t.pod, exists: t.exists, sandbox: t.sandbox, netns: t.netns,
		published: t.published, said: t.said, correctAt: t.correctAt,
	}
	return append(steps, unserve{uid})
}

func (t *tracked) capture() broker.Capture {
	p := t.pod
	return broker.Capture{
		UID: p.UID, Namespace: p.Namespace, Name: p.Name, ServiceAccount: p.ServiceAccount,
		Addresses: t.addresses(), Running: p.Running, Except: p.Except,
	}
}

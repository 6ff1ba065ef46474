// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/warren-mesh/warren/agent/debug"
	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/mesh/zds"
)

// askAgain is the pause before problems are looked at again that keep the list from being complete.
const askAgain = time.Second

// reconcile keeps broker, ztunnel and publications in step with this node's pods until ctx ends. It is the
// only writer of a.pods.
func (a *Agent) reconcile(ctx context.Context) error {
	defer close(a.ended)
	kept, err := a.sandboxes.load()
	if err != nil {
		a.cfg.Log.Warn("what the CNI plugin told an earlier agent", "err", err)
	}
	a.kept = kept
	a.loadHeld()
	complete, changed := a.look()
	a.inherit()
	wake := a.step(time.Now())
	a.keepHeld()
	if !complete {
		a.cfg.Log.Warn("there may be pods of this node beyond those read: broker and ztunnel go on with those they know (see /debug/problems, /debug/objects)")
	}
	for synced := false; ; {
		if complete && !synced {
			a.broker.Sync()
			a.zds.Synced()
			synced = true
		}
		var timer, again <-chan time.Time
		if !wake.IsZero() {
			timer = time.After(time.Until(wake))
		}
		if !synced {
			again = time.After(askAgain)
		}
		select {
		case <-changed:
			complete, changed = a.look()
		case <-again:
			complete, changed = a.look()
		case s := <-a.broker.States():
			a.heard(s)
		case ack := <-a.zds.Acks():
			a.acknowledged(ack)
		case f := <-a.work:
			f()
		case <-timer:
		case <-ctx.Done():
			return nil
		}
		wake = a.step(time.Now())
		a.keepHeld()
	}
}

// look takes over the objects as they are, and reports whether they are all there: an agent that starts while one
// can't be read has no last good state of it, and one that starts without the API server knows of no pod younger than
// its snapshot. Neither must have such pods' capture ended for that.
func (a *Agent) look() (complete bool, changed <-chan struct{}) {
	complete = !a.stale() && !unsure(a.source.Problems(), a.cfg.Node) // first: both go together with the coming of the pods
	a.complete = a.complete || complete
	pods, changed := a.source.LocalPods()
	a.observe(pods)
	return complete, changed
}

// stale reports whether the objects are those of an earlier process.
func (a *Agent) stale() bool {
	r, ok := a.source.(reporter)
	return ok && r.Status().Stale
}

// unsure reports whether there may be a pod of the node that could not be read. A word about enrolment that is wrong
// hides none: the pods it is about are there, and stay as they were.
func unsure(problems []kube.Problem, node string) bool {
	return slices.ContainsFunc(problems, func(p kube.Problem) bool {
		kind, _, _ := strings.Cut(p.Object, " ")
		return !p.Partial && (kind == "" || kind == "Pod" && (p.Node == "" || p.Node == node))
	})
}

// observe takes over the objects: new pods, changed ones, and those that are no more.
func (a *Agent) observe(pods []kube.LocalPod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.pods {
		t.exists = false
	}
	for _, p := range pods {
		p = a.keep(p)
		t, known := a.pods[p.UID]
		if !known {
			t = &tracked{published: p.Published, said: p.Published, sandbox: a.kept[p.UID]}
			a.pods[p.UID] = t
		} else if t.inherited {
			t.inherited, t.published, t.said, t.sandbox = false, p.Published, p.Published, a.kept[p.UID]
		} else if p.Published != t.pod.Published {
			t.read(p.Published, time.Now())
		}
		if t.pod.Enrolled != p.Enrolled || !known {
			a.cfg.Log.Info("pod", "pod", p.Namespace+"/"+p.Name, "uid", p.UID, "enrolled", p.Enrolled, "reason", p.Reason)
		}
		t.pod, t.exists = p, true
	}
}

func (a *Agent) heard(s broker.State) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.pods[s.UID]
	if t == nil || t.sent == nil {
		return
	}
	if t.kernel == nil || t.kernel.Captured != s.Captured || t.kernel.Reason != s.Reason {
		a.cfg.Log.Info("broker", "pod", t.pod.Namespace+"/"+t.pod.Name, "captured", s.Captured, "reason", s.Reason)
	}
	t.kernel = &s
	if s.Gone && !a.waitsFor(t) {
		a.broker.ReleaseNetns(s.UID)
	}
}

func (a *Agent) acknowledged(ack zds.Ack) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.pods[ack.UID]
	if t == nil || !t.served {
		return
	}
	t.acked, t.ackError = ack.Err == nil, ""
	if ack.Err != nil {
		t.ackError = ack.Err.Error()
		a.cfg.Log.Warn("ztunnel refused a pod", "pod", t.pod.Namespace+"/"+t.pod.Name, "err", ack.Err)
	}
}

// step plans and carries out, and returns when to do so again.
func (a *Agent) step(now time.Time) time.Time {
	a.mu.Lock()
	fresh := a.settle()
	steps, wake := plan(a.pods, now, a.source.Store().Snapshot().Config().DrainOr(a.cfg.Drain))
	a.mu.Unlock()
	a.keepSandboxes(fresh)
	for _, s := range steps {
		switch s := s.(type) {
		case capture:
			a.broker.UpdateNetns(s.Capture, s.netns)
		case release:
			a.broker.Delete(s.uid)
		case serve:
			a.zds.Set(zds.Workload{UID: s.workload.UID, Name: s.workload.Name, Namespace: s.workload.Namespace, ServiceAccount: s.workload.ServiceAccount})
		case unserve:
			a.zds.Delete(s.uid)
		case publish:
			a.cfg.Log.Info("publish", "pod", s.target.Namespace+"/"+s.target.Name, "captured", s.value)
			a.publisher.put(s.target, s.value)
		}
	}
	return wake
}

func (a *Agent) countPods() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := map[string]int{}
	for _, t := range a.pods {
		n[t.label()]++
	}
	return n
}

func (a *Agent) debugPods() []debug.Pod {
	unpublished, _ := a.publisher.failures()
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]debug.Pod, 0, len(a.pods))
	for uid, t := range a.pods {
		p := t.debug(uid)
		p.Unpublished = unpublished[uid]
		out = append(out, p)
	}
	return debug.SortPods(out)
}

func (a *Agent) sources() debug.Sources {
	var objects func() kube.SourceStatus
	if r, ok := a.source.(reporter); ok {
		objects = r.Status
	}
	return debug.Sources{
		Objects: objects,
		Node:    a.cfg.Node, Version: a.cfg.Version, Level: a.cfg.Level,
		Snapshot: a.source.Store().Snapshot,
		Pods:     a.debugPods,
		Problems: a.source.Problems,
		BPF:      a.broker.Stats,
		Ztunnel:  a.dialZtunnel,
	}
}

// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/warren-mesh/warren/mesh/cni"
	"github.com/warren-mesh/warren/mesh/kube"
)

// objectWithin is how long a pod waits for its object in a namespace that is outside the mesh: only the object could
// say otherwise.
const objectWithin = 2 * time.Second

// waiter is a plugin that waits to hear whether its pod may start. The loop owns it.
type waiter struct {
	request cni.Request
	netns   *os.File // until it is handed on
	inode   uint64   // of the namespace
	sandbox *sandbox // what the pod was given, nil before
	late    bool     // objectWithin is over
	cause   string   // why it still waits
	answer  chan cni.Reply
}

// announcer is the agent as the CNI plugin's server sees it.
type announcer struct{ *Agent }

// Announce waits until the pod is captured, known to be outside, or ctx ends. It takes the file over.
func (a announcer) Announce(ctx context.Context, r cni.Request, netns *os.File) cni.Reply {
	w := &waiter{request: r, netns: netns, answer: make(chan cni.Reply, 1)}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(netns.Fd()), &st); err != nil {
		netns.Close()
		return refused(fmt.Sprintf("look at its network namespace: %v", err))
	}
	w.inode = st.Ino
	if !a.post(ctx, func() { a.waiters[w] = true }) {
		netns.Close()
		return refused("the agent is ending")
	}
	late := time.NewTimer(objectWithin)
	defer late.Stop()
	for {
		select {
		case reply := <-w.answer:
			return reply
		case <-late.C:
			a.post(ctx, func() { w.late = true })
		case <-ctx.Done():
			if !a.post(context.WithoutCancel(ctx), func() { a.giveUp(w) }) {
				return refused("the agent is ending")
			}
			return <-w.answer
		}
	}
}

// Ended takes back what was announced of a sandbox.
func (a announcer) Ended(ctx context.Context, r cni.Request) {
	done := make(chan struct{})
	ok := a.post(ctx, func() {
		defer close(done)
		for w := range a.waiters {
			if w.request.Container == r.Container {
				a.tell(w, refused("its sandbox ended"))
			}
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if t := a.find(r.Pod); t != nil && t.sandbox != nil && t.sandbox.Container == r.Container {
			a.forget(t)
		}
	})
	if ok {
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
}

// Check reports whether the pod is captured, or need not be.
func (a announcer) Check(_ context.Context, r cni.Request) cni.Reply {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch t := a.find(r.Pod); {
	case t == nil:
		return cni.Reply{Result: cni.Outside, Reason: "NoSuchPod"}
	case !t.pod.Enrolled:
		return cni.Reply{Result: cni.Outside, Reason: t.pod.Reason}
	case t.kernel == nil || !t.kernel.Captured:
		return refused("it is not captured: " + a.notYet(t))
	}
	return cni.Reply{Result: cni.Captured}
}

func refused(why string) cni.Reply { return cni.Reply{Result: cni.Failed, Error: why} }

// post hands the loop a function, and reports false if ctx or the loop ended first.
func (a *Agent) post(ctx context.Context, f func()) bool {
	select {
	case a.work <- f:
		return true
	case <-ctx.Done():
		return false
	case <-a.ended:
		return false
	}
}

// The functions below run in the loop.

// settle brings those that wait forward: it joins them with their pods, and answers those whose pod's fate is known. The
// caller holds mu. It returns the sandboxes to be kept, by pod uid.
func (a *Agent) settle() map[string]*sandbox {
	var keep map[string]*sandbox
	for w := range a.waiters {
		t := a.find(w.request.Pod)
		switch {
		case t == nil:
			w.cause = a.noObject(w.request.Pod)
			if w.late && a.standing(w.request.Pod.Namespace) == cni.NamespaceOutside {
				a.tell(w, cni.Reply{Result: cni.Outside, Reason: "NoObjectYet"})
			}
		case !t.pod.Enrolled && kube.Undecided(t.pod.Reason):
			w.cause = a.undecided(t.pod)
		case !t.pod.Enrolled:
			a.tell(w, cni.Reply{Result: cni.Outside, Reason: t.pod.Reason})
		case w.sandbox == nil && t.holds(w):
			a.tell(w, cni.Reply{Result: cni.Captured}) // a further network of it, or asked twice
		case w.sandbox == nil:
			w.sandbox = &sandbox{Container: w.request.Container, Addresses: w.request.Addresses, Before: t.pod.Addresses}
			if t.netns != nil {
				t.netns.Close()
			}
			t.sandbox, t.kernel, t.netns, w.netns = w.sandbox, nil, w.netns, nil
			if keep == nil {
				keep = map[string]*sandbox{}
			}
			keep[t.pod.UID] = w.sandbox
			w.cause = a.notYet(t)
		case t.sandbox != w.sandbox:
			a.tell(w, refused("another sandbox was made for it since"))
		case t.kernel != nil && t.kernel.Captured && t.kernel.Netns == w.inode:
			a.tell(w, cni.Reply{Result: cni.Captured})
		default:
			w.cause = a.notYet(t)
		}
	}
	return keep
}

// holds reports whether the sandbox that is announced is the one that is captured: a plugin that gives pods several
// networks may have each announced, and the first is the pod's.
func (t *tracked) holds(w *waiter) bool {
	return t.sandbox != nil && t.sandbox.Container == w.request.Container && t.kernel != nil && t.kernel.Captured && t.kernel.Netns == w.inode
}

// notYet is why a pod is not captured.
func (a *Agent) notYet(t *tracked) string {
	switch {
	case t.kernel == nil && !a.broker.Connected():
		return "no broker is connected to the agent (is the container warren-broker of this node's warren-node pod running?)"
	case t.kernel == nil:
		return "the broker has not answered"
	case t.kernel.Captured:
		return "the broker found another network namespace to be the pod's than the one handed over (see the broker's log)"
	}
	return "the broker says: " + t.kernel.Reason
}

// undecided is why nobody can tell whether a pod belongs to the mesh.
func (a *Agent) undecided(p kube.LocalPod) string {
	if p.Reason == kube.NamespaceUnknown {
		return fmt.Sprintf("namespace %s has not reached the agent (does the API server answer it?)", p.Namespace)
	}
	why := "whether it is in the mesh can't be read"
	pod := kube.Key{Kind: "Pod", Namespace: p.Namespace, Name: p.Name}.String()
	namespace := kube.Key{Kind: "Namespace", Name: p.Namespace}.String()
	for _, o := range a.source.Problems() {
		if o.Object == namespace || o.Object == pod && strings.Contains(o.Field, kube.KeyMesh) {
			return why + ": " + o.Error()
		}
	}
	return why
}

func (a *Agent) noObject(p cni.Pod) string {
	for _, t := range a.pods {
		if t.exists && t.pod.Namespace == p.Namespace && t.pod.Name == p.Name {
			return fmt.Sprintf("the Pod object of that name has uid %s, the runtime says %s (a static pod can't be in an enrolled namespace)", t.pod.UID, p.UID)
		}
	}
	return "its Pod object has not reached the agent (does the API server answer it? see /debug/objects)"
}

// find returns the pod that the runtime speaks of, nil while its object is not here.
func (a *Agent) find(p cni.Pod) *tracked {
	if p.UID != "" {
		if t := a.pods[p.UID]; t != nil && t.exists && t.pod.Namespace == p.Namespace && t.pod.Name == p.Name {
			return t
		}
		return nil
	}
	for _, t := range a.pods {
		if t.exists && t.pod.Namespace == p.Namespace && t.pod.Name == p.Name {
			return t
		}
	}
	return nil
}

// tell answers, once.
func (a *Agent) tell(w *waiter, r cni.Reply) {
	if !a.waiters[w] {
		return
	}
	delete(a.waiters, w)
	if w.netns != nil {
		w.netns.Close()
		w.netns = nil
	}
	w.answer <- r
}

// giveUp answers a waiter whose time is over, and takes back what it announced: its pod does not start.
func (a *Agent) giveUp(w *waiter) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t := a.find(w.request.Pod); a.waiters[w] && t != nil && w.sandbox != nil && t.sandbox == w.sandbox {
		a.forget(t)
	}
	if w.cause == "" {
		w.cause = "the agent did not get to it"
	}
	a.tell(w, refused(fmt.Sprintf("not captured within %v: %s", w.request.Wait().Round(time.Millisecond), w.cause)))
}

// forget drops a pod's sandbox and its namespace. The caller holds mu.
func (a *Agent) forget(t *tracked) {
	if t.netns != nil {
		t.netns.Close()
	}
	t.sandbox, t.netns = nil, nil
	a.broker.ReleaseNetns(t.pod.UID)
}

// waitsFor reports whether a plugin waits for the pod.
func (a *Agent) waitsFor(t *tracked) bool {
	for w := range a.waiters {
		if w.sandbox != nil && w.sandbox == t.sandbox {
			return true
		}
	}
	return false
}

// keepSandboxes brings the files up to date: a sandbox is kept until the object has addresses of its own.
func (a *Agent) keepSandboxes(fresh map[string]*sandbox) {
	for uid, s := range fresh {
		a.kept[uid] = s
		if err := a.sandboxes.save(uid, s); err != nil {
			a.cfg.Log.Warn("an agent started in the next seconds will not know the pod's address", "err", err)
		}
	}
	for uid, s := range a.kept {
		t := a.pods[uid]
		if (t == nil || t.inherited) && !a.complete || t != nil && t.sandbox == s && sameAddresses(t.pod.Addresses, s.Before) {
			continue
		}
		delete(a.kept, uid)
		if err := a.sandboxes.remove(uid); err != nil {
			a.cfg.Log.Warn("sandbox", "err", err)
		}
	}
}

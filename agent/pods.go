// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"time"

	"github.com/warren-mesh/warren/agent/debug"
	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/kube"
)

// captured is the published value of a pod that is captured; anything else published is a reason word.
const captured = "true"

// Words published for a pod that is enrolled and not captured, beside those of mesh/kube.
const (
	pendingBroker  = "WaitingForBroker"
	pendingZtunnel = "WaitingForZtunnel"
	refusedZtunnel = "RefusedByZtunnel"
	releasing      = "Releasing"
)

// tracked is what the agent knows of one pod of its node, between the object appearing and the last trace of
// its capture going.
type tracked struct {
	pod    kube.LocalPod
	exists bool // the object is still there

	inherited bool // an earlier agent had it held, and this one has seen no object of it

	sandbox *sandbox // what the CNI plugin said, nil when it said nothing
	netns   *os.File // of the sandbox, until the broker is given it

	sent     *broker.Capture // what the broker was last told; nil: nothing to hold
	kernel   *broker.State   // the broker's last word; nil: none yet
	served   bool            // ztunnel was told by ZDS
	acked    bool            // ztunnel acknowledged it
	ackError string

	drainUntil time.Time // not zero: released, live connections last until then
	published  string    // what the rest of the mesh was told; "": nothing
	said       string    // what this agent told it last
	correctAt  time.Time // when it is told again, because the object says something else
}

// wanted reports whether the pod should be captured: one without an address has nothing to capture yet.
func (t *tracked) wanted() bool {
	return t.exists && t.pod.Enrolled && len(t.addresses()) > 0
}

// outlives reports whether the pod runs on without its object, as one does that was deleted by force: it stays
// captured until the broker sees its end, or what it still sends would leave in plaintext. That it is not captured now
// says nothing of its end: so it is while ztunnel hands listeners over to a broker that starts.
func (t *tracked) outlives() bool {
	held := t.sent != nil || t.inherited
	return held && !t.exists && t.drainUntil.IsZero() && (t.kernel == nil || !t.kernel.Gone)
}

// status is the word to publish and to show: "true", a reason, or "" where nothing need be said.
func (t *tracked) status() string {
	switch {
	case !t.exists:
		return ""
	case !t.wanted() && !t.drainUntil.IsZero():
		return releasing
	case !t.pod.Enrolled && kube.Undecided(t.pod.Reason):
		return t.pod.Reason
	case !t.pod.Enrolled:
		return unenrolledWord(t.pod.Reason)
	case t.kernel == nil:
		return pendingBroker
	case !t.kernel.Captured:
		return t.kernel.Reason
	case t.ackError != "":
		return refusedZtunnel
	case !t.acked:
		return pendingZtunnel
	}
	return captured
}

// publication is what the rest of the mesh is told. Waiting is not news: a pod that was captured stays so
// while agent, broker or ztunnel restart, and one that was not yet stays unsaid. So does one of which nobody can tell.
func (t *tracked) publication() string {
	switch s := t.status(); s {
	case pendingBroker, pendingZtunnel, kube.NamespaceUnknown, kube.EnrolmentUnreadable:
		return t.published
	case releasing:
		return unenrolledWord(t.pod.Reason)
	default:
		return s
	}
}

// unenrolledWord keeps the words a user asks about: why a pod that could be meant to be in the mesh is not.
// That a pod simply isn't enrolled shows from its objects, and saying so would mean a write per pod.
func unenrolledWord(word string) string {
	if word == kube.NotEnrolled || word == kube.ExcludedNamespace || kube.Undecided(word) {
		return ""
	}
	return word
}

// correctAfter is the pause before what the object says is set right: what it says may be on its way still, and who
// writes something else may do so at once again.
const correctAfter = time.Second

// read takes over what the object says of the pod's capture, which anybody who may write the object can change.
func (t *tracked) read(word string, now time.Time) {
	switch t.published = word; word {
	case t.said:
		t.correctAt = time.Time{}
	default:
		t.correctAt = now.Add(correctAfter)
	}
}

// label is the pod's state as a metric label: a closed set, unlike the broker's sentences.
func (t *tracked) label() string {
	switch s := t.status(); {
	case s == captured:
		return "captured"
	case t.outlives():
		return "releasing"
	case !t.wanted() && t.drainUntil.IsZero():
		return "outside"
	case !t.wanted():
		return "releasing"
	case s == pendingBroker || s == pendingZtunnel:
		return "pending"
	}
	return "failed"
}

func (t *tracked) debug(uid string) debug.Pod {
	p := debug.Pod{
		Namespace: t.pod.Namespace, Name: t.pod.Name, UID: uid, Enrolled: t.pod.Enrolled,
		State: t.status(), Published: t.published, Ztunnel: t.ackError,
	}
	if p.State == captured {
		p.State = "captured"
	}
	switch {
	case t.outlives():
		p.State = "deleted, and still running"
	case p.State == "":
		p.State = t.pod.Reason
	}
	if t.acked {
		p.Ztunnel = "acknowledged"
	}
	if t.kernel != nil {
		p.Broker, p.Since = t.kernel.Reason, t.kernel.At
		if t.kernel.Captured {
			p.Broker = "captured"
		}
	}
	return p
}

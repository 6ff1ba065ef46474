// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// history is what this process itself saw of one pod. It starts empty with the process and the pod's uid,
// so nothing the initial list shows at once counts as "seen before".
type history struct {
	readyOutside bool // was Ready while it was not enrolled, and not captured since
	enrolledSeen bool // was enrolled when last looked at
	ranFirst     bool // already ran when it was first seen enrolled
	ranUncaught  bool // ran while nobody had reported it captured
	capturedAt   time.Time
	capturedRan  bool // ranUncaught when it was first reported captured
}

// follow takes over what was seen of the pod while its object was old. Once it was captured others have reached it by
// HBONE: whoever takes the annotation away, by mistake or not, must not thereby have them send plaintext. That holds too
// when both words come in one batch, and only the last is looked at.
func (p *pod) follow(old *pod) {
	p.history = old.history
	if old.published == CapturedTrue {
		p.readyOutside = false
	}
}

// observe notes what is to be seen of the pod now.
func (h *history) observe(p *pod, enrolled bool, now time.Time) {
	switch {
	case !enrolled:
		h.enrolledSeen = false
		h.readyOutside = h.readyOutside || p.ready
	case !h.enrolledSeen:
		h.enrolledSeen, h.ranFirst = true, p.running
	}
	if p.published != CapturedTrue {
		h.ranUncaught = h.ranUncaught || p.running
		h.capturedAt, h.capturedRan = time.Time{}, false
		return
	}
	if h.capturedAt.IsZero() {
		h.capturedAt, h.capturedRan = now, h.ranUncaught
	}
}

// capture says how connections reach the pod; the first rule that fits (architecture, "Which", a to d).
// A host-network pod shares its node's address and can't have been captured whatever it carries.
func (p *pod) capture(enrolled bool, why string) (mesh.Capture, string) {
	switch {
	case p.published == CapturedTrue && !p.hostNetwork:
		return mesh.Captured, ""
	case !enrolled && Undecided(why):
		return mesh.Pending, why
	case !enrolled:
		return mesh.Outside, why
	case leftAlone(p.published) && p.readyOutside:
		return mesh.ReadyBeforeEnrolled, ""
	case leftAlone(p.published):
		return mesh.Pending, ""
	}
	return mesh.Pending, p.published
}

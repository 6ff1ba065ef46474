// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/explain"
	"github.com/warren-mesh/warren/mesh/reason"
)

// kernel tells what bpf/connect.c does with the source's connect to dst.
func (x *run) kernel(dst netip.AddrPort) explain.Capture {
	w := x.source.workload
	switch {
	case w == nil:
		return explain.Capture{Text: "the source is no workload of the mesh: its connections go direct"}
	case !x.captured(w):
		return explain.Capture{Text: "the source is not captured (" + why(w) + "): its connections go direct"}
	case dst.Addr().IsLoopback() || addressed(w, dst.Addr()):
		switch dst.Port() {
		case broker.PortOutbound, broker.PortPlaintext, broker.PortHBONE, broker.PortDNS:
			return explain.Capture{Reason: reason.ReservedPort, Text: "the port is one of the mesh's own listeners"}
		}
		return explain.Capture{Reason: reason.Loopback, Text: "the destination is the pod itself: the connection never leaves it"}
	case w.Excepts(x.snap.Config(), dst.Addr()):
		return explain.Capture{Reason: reason.Excepted, Text: "the destination is link-local or excepted: the connection goes direct"}
	case !addressOf(w.Addresses, family(dst.Addr())).IsValid():
		return explain.Capture{Reason: reason.NoPodAddress, Text: "the pod has no address of the destination's family"}
	}
	return explain.Capture{Captured: true, Reason: reason.CapturedOutbound, Text: "the source is captured: its ztunnel gets the connection"}
}

// captured reports whether the kernel programs hold a workload's pod: its node published that, or this ztunnel has
// its listeners.
func (x *run) captured(w *mesh.Workload) bool {
	if w.HostNetwork {
		return false
	}
	return w.Capture == mesh.Captured || w.Capture != mesh.Outside && len(x.listeners[w.PodUID]) > 0
}

func why(w *mesh.Workload) string {
	switch {
	case w.HostNetwork:
		return "it has the host's network"
	case w.Capture == mesh.Outside:
		return "outside the mesh by its own objects"
	case w.CaptureReason != "":
		return w.Capture.String() + ", " + w.CaptureReason
	}
	return w.Capture.String()
}

func addressed(w *mesh.Workload, a netip.Addr) bool {
	for _, b := range w.Addresses {
		if b.Unmap() == a {
			return true
		}
	}
	return false
}

// reserved tells what bpf/sk_lookup.c does with a plain connection to a port of a captured pod that belongs to the
// mesh; None for all others, which go to ztunnel's plaintext listener.
func reserved(port uint16) reason.Reason {
	switch {
	case port == broker.PortHBONE:
		return reason.TLSFailure
	case port == broker.PortOutbound, port == broker.PortPlaintext, port == broker.PortDNS,
		port >= broker.CaptureFirst && port <= broker.CaptureLast:
		return reason.ReservedPort
	}
	return reason.None
}

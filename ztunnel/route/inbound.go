// SPDX-License-Identifier: Apache-2.0

package route

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

// PlaintextGrace is how long after its capture was published a pod that already ran when it was captured
// may still be met in plaintext: its peers on other nodes learn of the capture a little later.
const PlaintextGrace = 5 * time.Second

// AuthorityError says why a CONNECT request is refused, and with which HTTP status.
type AuthorityError struct {
	Status    int // 400 or 503
	Reason    reason.Reason
	Authority string
	Detail    string
}

func (e *AuthorityError) Error() string {
	return fmt.Sprintf("check authority %q: %s", Clip(e.Authority), e.Detail)
}

// Inbound is a checked CONNECT request.
type Inbound struct {
	// Target is the local pod's address and the port asked for.
	Target netip.AddrPort
	// Service is set when the authority named one.
	Service *mesh.Service
}

// CheckAuthority keeps the HBONE listener of one pod from being an open relay. dst is the destination of
// the tunnel's TCP connection: the only address the request may name. A host name must be that of a Service
// the pod is an endpoint of. Only the port ever comes from the peer. The error is an *AuthorityError.
func CheckAuthority(snap *mesh.Snapshot, local *mesh.Workload, dst netip.Addr, authority string) (Inbound, error) {
	fail := func(status int, r reason.Reason, detail string) (Inbound, error) {
		return Inbound{}, &AuthorityError{Status: status, Reason: r, Authority: authority, Detail: detail}
	}
	host, port, ok := splitAuthority(authority)
	if !ok {
		return fail(400, reason.BadRequest, "want host:port")
	}
	if local == nil {
		return fail(503, reason.DestinationUnknown, "the destination workload is not known here")
	}
	if meshPort(port) {
		return fail(400, reason.ReservedPort, "the port belongs to the mesh")
	}
	dst = dst.Unmap()
	in := Inbound{Target: netip.AddrPortFrom(dst, port)}
	if addr, err := netip.ParseAddr(host); err == nil {
		if detail := addressFault(addr, dst); detail != "" {
			return fail(400, reason.AuthorityMismatch, detail)
		}
		return in, nil
	}
	if !hostname(host) {
		return fail(400, reason.BadRequest, "neither an address nor a host name")
	}
	in.Service = snap.ServiceByHostname(strings.ToLower(host))
	if in.Service == nil {
		return fail(503, reason.DestinationUnknown, "no service has this host name")
	}
	ports, serves := local.Services[in.Service.NamespacedName()]
	if !serves {
		return fail(400, reason.AuthorityMismatch, "the pod is no endpoint of this service")
	}
	target, ok := ports[port]
	if !ok || target == 0 {
		return fail(503, reason.NoSuchPort, "the pod does not serve this port of the service")
	}
	if meshPort(target) {
		return fail(400, reason.ReservedPort, "the port belongs to the mesh")
	}
	in.Target = netip.AddrPortFrom(dst, target)
	return in, nil
}

// addressFault tells why addr may not be asked for on a connection to dst; "" when it may.
func addressFault(addr, dst netip.Addr) string {
	switch {
	case addr.Is4In6():
		return "a v4-mapped address is not accepted"
	case addr.Zone() != "":
		return "an address with a zone is not accepted"
	case addr.IsLoopback(), addr.IsLinkLocalUnicast(), addr.IsMulticast(), addr.IsUnspecified():
		return "loopback, link-local, multicast and unspecified addresses are not accepted"
	case addr != dst:
		return "not the address the connection came to, " + dst.String()
	}
	return ""
}

// maxAuthority is the longest authority there can be: a host name, a colon and a port, in bytes.
const maxAuthority = 253 + 1 + 5

// Clip cuts what a peer sent for an authority to a length that may be logged.
func Clip(authority string) string { return authority[:min(len(authority), maxAuthority)] }

// splitAuthority reads "host:port" or "[v6]:port". Brackets are for IPv6 addresses only, and these need them.
func splitAuthority(s string) (host string, port uint16, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i <= 0 || i == len(s)-1 || len(s) > maxAuthority {
		return "", 0, false
	}
	host = s[:i]
	n, err := strconv.ParseUint(s[i+1:], 10, 16)
	if err != nil || n == 0 {
		return "", 0, false
	}
	if inner, found := strings.CutPrefix(host, "["); found {
		if host, found = strings.CutSuffix(inner, "]"); !found || !strings.Contains(host, ":") {
			return "", 0, false
		}
	} else if strings.Contains(host, ":") {
		return "", 0, false
	}
	return host, uint16(n), host != ""
}

func hostname(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		default:
			return false
		}
	}
	return s != "" && len(s) <= 253
}

// Plaintext decides about a plain TCP connection that reached a captured pod, after authorization allowed
// it. A captured pod speaks HBONE, so plaintext from its address is someone else's, or a connection from
// before its capture: it is held until the source's state changes.
func Plaintext(snap *mesh.Snapshot, local *mesh.Workload, pod string, src netip.Addr, dst netip.AddrPort, now time.Time) Decision {
	d := Decision{Target: netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port()), Workload: local}
	if local == nil {
		return wait(d, Need{Kind: NeedPod, UID: pod}, reason.DestinationUnknown)
	}
	if meshPort(dst.Port()) {
		return refuse(d, reason.ReservedPort)
	}
	peer := snap.WorkloadByAddr(src)
	switch {
	case peer == nil || peer.Capture != mesh.Captured, peer.Excepts(snap.Config(), d.Target.Addr()):
		return pass(d, reason.InboundPlaintext)
	case peer.CapturedRunning && now.Sub(peer.CapturedAt) < PlaintextGrace:
		return pass(d, reason.InboundPlaintext)
	}
	return wait(d, Need{Kind: NeedCapture, UID: peer.UID}, reason.PlaintextFromMesh)
}

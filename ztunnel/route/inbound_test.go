// SPDX-License-Identifier: Apache-2.0

package route

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

func TestCheckAuthority(t *testing.T) {
	web := pod("web", "10.1.0.2", mesh.Captured, func(w *mesh.Workload) {
		w.Services[svcName("web")] = mesh.EndpointPorts{80: 8080, 81: 15006}
	})
	snap := snapshot(web, pod("other", "10.1.0.3", mesh.Captured, serves("other", 80, 8080)),
		service("web", "10.96.0.1", 80), service("other", "10.96.0.2", 80))
	const v4, v6 = "10.1.0.2", "fd00::2"
	tests := []struct {
		name, dst, authority string
		status               int
		reason               reason.Reason
		target               string
	}{
		{"the pod itself", v4, "10.1.0.2:8080", 0, 0, "10.1.0.2:8080"},
		{"the pod itself, IPv6", v6, "[fd00::2]:8080", 0, 0, "[fd00::2]:8080"},
		{"the pod itself on a mapped socket", "::ffff:10.1.0.2", "10.1.0.2:8080", 0, 0, "10.1.0.2:8080"},
		{"a service of this pod", v4, "web.shop.svc.cluster.local:80", 0, 0, "10.1.0.2:8080"},
		{"host names have no case", v4, "WEB.shop.svc.cluster.local:80", 0, 0, "10.1.0.2:8080"},
		{"another pod", v4, "10.1.0.3:8080", 400, reason.AuthorityMismatch, ""},
		{"another family of this pod", v4, "[fd00::2]:8080", 400, reason.AuthorityMismatch, ""},
		{"the service's virtual address", v4, "10.96.0.1:80", 400, reason.AuthorityMismatch, ""},
		{"loopback", v4, "127.0.0.1:8080", 400, reason.AuthorityMismatch, ""},
		{"loopback, asked on loopback", "127.0.0.1", "127.0.0.1:8080", 400, reason.AuthorityMismatch, ""},
		{"another loopback", v4, "127.8.8.8:8080", 400, reason.AuthorityMismatch, ""},
		{"IPv6 loopback", v6, "[::1]:8080", 400, reason.AuthorityMismatch, ""},
		{"v4-mapped", v4, "[::ffff:10.1.0.2]:8080", 400, reason.AuthorityMismatch, ""},
		{"v4-mapped loopback", v4, "[::ffff:127.0.0.1]:8080", 400, reason.AuthorityMismatch, ""},
		{"the node", v4, "192.0.2.1:10250", 400, reason.AuthorityMismatch, ""},
		{"link-local", v4, "169.254.169.254:80", 400, reason.AuthorityMismatch, ""},
		{"IPv6 link-local", v6, "[fe80::1]:80", 400, reason.AuthorityMismatch, ""},
		{"a zone", v6, "[fd00::2%lo]:80", 400, reason.AuthorityMismatch, ""},
		{"unspecified", v4, "0.0.0.0:80", 400, reason.AuthorityMismatch, ""},
		{"decimal address", v4, "167837698:80", 503, reason.DestinationUnknown, ""},
		{"a host name nobody has", v4, "example.com:80", 503, reason.DestinationUnknown, ""},
		{"localhost", v4, "localhost:80", 503, reason.DestinationUnknown, ""},
		{"a service of another pod", v4, "other.shop.svc.cluster.local:80", 400, reason.AuthorityMismatch, ""},
		{"a service's port that it has not", v4, "web.shop.svc.cluster.local:8080", 503, reason.NoSuchPort, ""},
		{"a service's port that leads into the mesh", v4, "web.shop.svc.cluster.local:81", 400, reason.ReservedPort, ""},
		{"port 15001", v4, "10.1.0.2:15001", 400, reason.ReservedPort, ""},
		{"port 15006", v4, "10.1.0.2:15006", 400, reason.ReservedPort, ""},
		{"port 15008", v4, "10.1.0.2:15008", 400, reason.ReservedPort, ""},
		{"port 15053", v4, "10.1.0.2:15053", 400, reason.ReservedPort, ""},
		{"the capture range", v4, "10.1.0.2:61000", 400, reason.ReservedPort, ""},
		{"no port", v4, "10.1.0.2", 400, reason.BadRequest, ""},
		{"port 0", v4, "10.1.0.2:0", 400, reason.BadRequest, ""},
		{"port too large", v4, "10.1.0.2:65536", 400, reason.BadRequest, ""},
		{"port with a sign", v4, "10.1.0.2:+80", 400, reason.BadRequest, ""},
		{"empty", v4, "", 400, reason.BadRequest, ""},
		{"no host", v4, ":80", 400, reason.BadRequest, ""},
		{"IPv6 without brackets", v6, "fd00::2:80", 400, reason.BadRequest, ""},
		{"IPv4 in brackets", v4, "[10.1.0.2]:80", 400, reason.BadRequest, ""},
		{"brackets not closed", v6, "[fd00::2:80", 400, reason.BadRequest, ""},
		{"a URL", v4, "http://10.1.0.2:80", 400, reason.BadRequest, ""},
		{"user information", v4, "x@10.1.0.2:80", 400, reason.BadRequest, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in, err := CheckAuthority(snap, web, addr(tt.dst), tt.authority)
			var ae *AuthorityError
			if !errors.As(err, &ae) {
				if tt.status != 0 || in.Target.String() != tt.target {
					t.Fatalf("got %v, %v; want %q, status %d", in.Target, err, tt.target, tt.status)
				}
				return
			}
			if ae.Status != tt.status || ae.Reason != tt.reason {
				t.Errorf("got %d %v (%v), want %d %v", ae.Status, ae.Reason, err, tt.status, tt.reason)
			}
		})
	}
	var ae *AuthorityError
	if _, err := CheckAuthority(snap, nil, addr(v4), "10.1.0.2:80"); !errors.As(err, &ae) || ae.Status != 503 {
		t.Errorf("unknown local workload: got %v, want 503", err)
	}
}

func FuzzCheckAuthority(f *testing.F) {
	for _, s := range []string{"10.1.0.2:80", "[fd00::2]:80", "web.shop.svc.cluster.local:80", "[::ffff:10.1.0.2]:80", ":", "[]:1"} {
		f.Add(s)
	}
	web := pod("web", "10.1.0.2", mesh.Captured, serves("web", 80, 8080))
	snap := snapshot(web, service("web", "10.96.0.1", 80))
	f.Fuzz(func(t *testing.T, authority string) {
		in, err := CheckAuthority(snap, web, addr("10.1.0.2"), authority)
		if err == nil && (in.Target.Addr() != addr("10.1.0.2") || in.Target.Port() == 0 || meshPort(in.Target.Port())) {
			t.Errorf("%q leads to %v", authority, in.Target)
		}
	})
}

func TestPlaintext(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	web := pod("web", "10.1.0.2", mesh.Captured)
	excepted := pod("web", "10.99.0.2", mesh.Captured)
	captured := func(running bool, ago time.Duration) *mesh.Workload {
		return pod("peer", "10.1.0.3", mesh.Captured, func(w *mesh.Workload) { w.CapturedRunning, w.CapturedAt = running, now.Add(-ago) })
	}
	excepting := captured(false, time.Second)
	excepting.Except = []netip.Prefix{netip.MustParsePrefix("10.1.0.2/32")}
	need := Need{Kind: NeedCapture, UID: "c//Pod/shop/peer"}
	tests := []struct {
		name   string
		peer   *mesh.Workload
		local  *mesh.Workload
		dst    string
		action Action
		reason reason.Reason
		need   Need
	}{
		{"from nobody known", nil, web, "10.1.0.2:80", Passthrough, reason.InboundPlaintext, Need{}},
		{"from a pod outside", pod("peer", "10.1.0.3", mesh.Outside), web, "10.1.0.2:80", Passthrough, reason.InboundPlaintext, Need{}},
		{"from a pod that is not captured yet", pod("peer", "10.1.0.3", mesh.Pending), web, "10.1.0.2:80", Passthrough, reason.InboundPlaintext, Need{}},
		{"from a pod captured at its start", captured(false, time.Second), web, "10.1.0.2:80", Wait, reason.PlaintextFromMesh, need},
		{"from a pod captured while running, just now", captured(true, 4*time.Second), web, "10.1.0.2:80", Passthrough, reason.InboundPlaintext, Need{}},
		{"from a pod captured while running, long ago", captured(true, 5*time.Second), web, "10.1.0.2:80", Wait, reason.PlaintextFromMesh, need},
		{"from a captured pod to an excepted address", captured(false, time.Second), excepted, "10.99.0.2:80", Passthrough, reason.InboundPlaintext, Need{}},
		{"from a captured pod that excepts the address", excepting, web, "10.1.0.2:80", Passthrough, reason.InboundPlaintext, Need{}},
		{"from a captured pod that excepts another", excepting, pod("web", "10.1.0.9", mesh.Captured), "10.1.0.9:80", Wait, reason.PlaintextFromMesh, need},
		{"to a mesh port", nil, web, "10.1.0.2:15006", Refuse, reason.ReservedPort, Need{}},
		{"to a pod nobody knows", nil, nil, "10.1.0.2:80", Wait, reason.DestinationUnknown, Need{Kind: NeedPod, UID: "uid-web"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			snap := snapshot(web)
			if tt.peer != nil {
				snap = snap.With(mesh.PutWorkload{Workload: tt.peer})
			}
			d := Plaintext(snap, tt.local, "uid-web", netip.MustParseAddr("::ffff:10.1.0.3"), at(tt.dst), now)
			if d.Action != tt.action || d.Reason != tt.reason || d.Need != tt.need {
				t.Errorf("got %v %v need %v, want %v %v need %v", d.Action, d.Reason, d.Need, tt.action, tt.reason, tt.need)
			}
		})
	}
}

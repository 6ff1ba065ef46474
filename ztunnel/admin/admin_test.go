// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/dump"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/identity"
	"github.com/warren-mesh/warren/ztunnel/proxy"
)

func sources() Sources {
	id := mesh.Identity{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"}
	snap := mesh.NewSnapshot().With(mesh.PutWorkload{Workload: &mesh.Workload{UID: "c//Pod/shop/web", Namespace: "shop", Name: "web", Capture: mesh.Captured}})
	return Sources{
		Node: "n1", Version: "v1", Settings: map[string]string{"node": "n1"}, Level: new(slog.LevelVar), Sealed: true,
		Snapshot: func() *mesh.Snapshot { return snap },
		Certificates: func() []identity.Info {
			return []identity.Info{{Identity: id, State: identity.StateAvailable, Serial: "0a"}}
		},
		Top: func(window time.Duration, limit int) (time.Duration, []proxy.PodTraffic) {
			t := proxy.Traffic{Sent: 1000, Received: uint64(10 * limit), Opened: 5}
			return window, []proxy.PodTraffic{{UID: "u1", Name: mesh.Name{Namespace: "shop", Name: "web-1"}, Connections: 3, Traffic: t,
				Peers: []proxy.PeerTraffic{{Talker: proxy.Talker{Direction: "inbound", Namespace: "shop", Name: "client"}, Traffic: t}}}}
		},
		Pods: func() []proxy.PodInfo {
			return []proxy.PodInfo{{UID: "u1", Identity: id, Known: true, Listeners: []string{"hbone"}, Inbound: []proxy.ConnectionInfo{
				{ID: 7, Src: netip.MustParseAddrPort("10.1.0.1:4000"), Protocol: "HBONE", Reason: reason.Tunnel, Peer: id.String()}}}}
		},
	}
}

func get(t *testing.T, h http.Handler, method, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, "http://localhost:15000"+path, nil))
	return w.Code, w.Body.String()
}

func TestConfigDump(t *testing.T) {
	code, body := get(t, Handler(sources()), "GET", "/config_dump")
	var d struct {
		Workloads []struct{ UID, Protocol string }
		Services  []any
		Policies  []any
		Version   map[string]string
		Config    map[string]string

		Certificates []struct {
			Identity, State string
			CertChain       []struct{ SerialNumber string }
		}
		WorkloadState map[string]struct {
			State       string
			Connections struct {
				Inbound []struct{ Src, Protocol, Reason string }
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &d); err != nil || code != 200 {
		t.Fatalf("status %d, %v", code, err)
	}
	if len(d.Workloads) != 1 || d.Workloads[0].Protocol != "HBONE" || d.Services == nil || d.Policies == nil || d.Config["node"] != "n1" {
		t.Errorf("got %s", body)
	}
	if c := d.Certificates; len(c) != 1 || c[0].Identity != "spiffe://cluster.local/ns/shop/sa/web" || c[0].CertChain[0].SerialNumber != "10" {
		t.Errorf("certificates: got %+v", c)
	}
	if s := d.WorkloadState["u1"]; s.State != "Up" || len(s.Connections.Inbound) != 1 || s.Connections.Inbound[0].Reason != "TUNNEL" {
		t.Errorf("workload state: got %+v", s)
	}
}

func TestIndexListsEveryPage(t *testing.T) {
	_, body := get(t, Handler(sources()), "GET", "/")
	for _, p := range []string{"/config_dump", "/debug/connections", "/debug/top", "/logging", "/debug/pprof/"} {
		if !strings.Contains(body, `href="`+p+`"`) {
			t.Errorf("the index lacks %s", p)
		}
		if code, _ := get(t, Handler(sources()), "GET", p); code != 200 {
			t.Errorf("%s: status %d", p, code)
		}
	}
	if code, _ := get(t, Handler(sources()), "GET", "/nowhere"); code != 404 {
		t.Errorf("unknown page: status %d", code)
	}
}

// TestTop: rates by pod and peer, as JSON and as a table; what makes no sense is refused by name.
func TestTop(t *testing.T) {
	h := Handler(sources())
	code, body := get(t, h, "GET", "/debug/top?window=20s&limit=4")
	var top dump.Top
	if err := json.Unmarshal([]byte(body), &top); err != nil || code != 200 {
		t.Fatalf("%d, %v: %s", code, err, body)
	}
	want := dump.Rates{Sent: 50, Received: 2, Opened: 0.25}
	if top.Seconds != 20 || len(top.Pods) != 1 || top.Pods[0].Rates != want || top.Pods[0].Connections != 3 || top.Pods[0].Peers[0] != (dump.TopPeer{Direction: "inbound", Peer: "shop/client", Rates: want}) {
		t.Errorf("got %s", body)
	}
	code, body = get(t, h, "GET", "/debug/top?format=text")
	if lines := strings.Split(body, "\n"); code != 200 || len(lines) != 5 || !strings.HasPrefix(lines[3], "shop/web-1   shop/client   inbound ") {
		t.Errorf("%d: %s", code, body)
	}
	for query, word := range map[string]string{"window=2m": "window", "window=x": "window", "window=-1s": "window", "limit=0": "limit", "limit=all": "limit"} {
		if code, body := get(t, h, "GET", "/debug/top?"+query); code != 400 || !strings.HasPrefix(body, word) {
			t.Errorf("%s: %d %s", query, code, body)
		}
	}
}

func TestLogging(t *testing.T) {
	s := sources()
	h := Handler(s)
	for _, tt := range []struct {
		method, path string
		code         int
		level        slog.Level
	}{
		{"POST", "/logging?level=debug", 200, slog.LevelDebug},
		{"GET", "/logging?level=error", 200, slog.LevelDebug},
		{"POST", "/logging?level=loud", 400, slog.LevelDebug},
		{"PUT", "/logging?level=error", 405, slog.LevelDebug},
		{"POST", "/logging?level=reset", 200, slog.LevelInfo},
	} {
		if code, _ := get(t, h, tt.method, tt.path); code != tt.code || s.Level.Level() != tt.level {
			t.Errorf("%s %s: status %d, level %v", tt.method, tt.path, code, s.Level.Level())
		}
	}
}

func TestSealedProfilesAreText(t *testing.T) {
	h := Handler(sources())
	for _, p := range []string{"heap", "heap?debug=0", "goroutine?seconds=1", "allocs?debug=x"} {
		if code, body := get(t, h, "GET", "/debug/pprof/"+p); code != 200 || strings.HasPrefix(body, "\x1f\x8b") {
			t.Errorf("%s: status %d, binary %v", p, code, strings.HasPrefix(body, "\x1f\x8b"))
		}
	}
	for _, p := range []string{"profile", "trace"} {
		if code, _ := get(t, h, "GET", "/debug/pprof/"+p); code != http.StatusNotImplemented {
			t.Errorf("%s: status %d", p, code)
		}
	}
}

// TestExplain: the page answers with what this ztunnel has, its certificates among it.
func TestExplain(t *testing.T) {
	s := sources()
	web := &mesh.Workload{UID: "c//Pod/shop/web", PodUID: "u1", Namespace: "shop", Name: "web", ServiceAccount: "web", Node: "n1", Capture: mesh.Captured,
		Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.1")}}
	cart := &mesh.Workload{UID: "c//Pod/shop/cart", PodUID: "u2", Namespace: "shop", Name: "cart", ServiceAccount: "cart", Node: "n1", Capture: mesh.Captured,
		Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.2")}}
	snap := mesh.NewSnapshot().With(mesh.PutWorkload{Workload: web}, mesh.PutWorkload{Workload: cart})
	s.Snapshot = func() *mesh.Snapshot { return snap }
	for query, want := range map[string]string{"src=shop/web&dst=shop/cart": "SAME_NODE", "src=shop/cart&dst=shop/web": "NO_CERTIFICATE"} {
		if code, body := get(t, Handler(s), http.MethodGet, "/debug/explain?port=80&"+query); code != 200 || !strings.Contains(body, want) || strings.Contains(body, "NO_CERTIFICATE") != (want == "NO_CERTIFICATE") {
			t.Errorf("%s: %d %s", query, code, body)
		}
	}
	if code, body := get(t, Handler(s), http.MethodGet, "/debug/explain?port=80&src=u1&dst=10.1.0.2"); code != 200 || !strings.Contains(body, `"listeners": [`) {
		t.Errorf("the listeners held here are not told: %d %s", code, body)
	}
}

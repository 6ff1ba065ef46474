// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"sigs.k8s.io/yaml"

	"github.com/warren-mesh/warren/agent/debug"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/explain"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/mesh/localhost"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/admin"
	"github.com/warren-mesh/warren/ztunnel/identity"
	"github.com/warren-mesh/warren/ztunnel/proxy"
)

// world is the pages of one node, by URL and by the sockets of a run directory.
type world struct {
	agent, ztunnel, dir string
	stats               func() (broker.Stats, error)
	problems            []kube.Problem
	objects             func() kube.SourceStatus
}

func newWorld(t *testing.T) *world {
	web := mesh.Name{Namespace: "shop", Name: "web"}
	client := mesh.Identity{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "client"}
	w := func(name, addr string, capture mesh.Capture, of map[mesh.Name]mesh.EndpointPorts) mesh.Change {
		return mesh.PutWorkload{Workload: &mesh.Workload{UID: "c//Pod/shop/" + name, PodUID: "uid-" + name, Namespace: "shop", Name: name, ServiceAccount: name,
			Node: "a", Addresses: []netip.Addr{netip.MustParseAddr(addr)}, Capture: capture, Ready: true, Services: of}}
	}
	snap := mesh.NewSnapshot().With(
		mesh.PutService{Service: &mesh.Service{Namespace: "shop", Name: "web", Hostname: "web.shop.svc.cluster.local",
			Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Ports: []mesh.ServicePort{{Port: 80, TargetPort: 8080}}}},
		w("client", "10.1.0.1", mesh.Captured, nil), w("web-1", "10.1.0.2", mesh.Captured, map[mesh.Name]mesh.EndpointPorts{web: {80: 8080}}),
		w("late", "10.1.0.3", mesh.Pending, nil),
		mesh.PutPolicy{Policy: &mesh.Policy{Name: mesh.Name{Namespace: "shop", Name: "nothing"}, Scope: mesh.ScopeNamespace, DryRun: false}},
	)
	z := httptest.NewServer(localhost.Only(admin.Handler(admin.Sources{
		Node: "a", Version: "v1", Snapshot: func() *mesh.Snapshot { return snap }, Level: new(slog.LevelVar),
		Certificates: func() []identity.Info {
			return []identity.Info{{Identity: client, State: identity.StateAvailable, Serial: "2a", NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}}
		},
		Top: func(window time.Duration, _ int) (time.Duration, []proxy.PodTraffic) {
			t := proxy.Traffic{Sent: 3000}
			return window, []proxy.PodTraffic{{UID: "u", Name: mesh.Name{Namespace: "shop", Name: "client"}, Connections: 1, Traffic: t,
				Peers: []proxy.PeerTraffic{{Talker: proxy.Talker{Direction: "outbound", Name: "web.shop.svc.cluster.local"}, Traffic: t}}}}
		},
		Pods: func() []proxy.PodInfo {
			return []proxy.PodInfo{{UID: "uid-client", Name: mesh.Name{Namespace: "shop", Name: "client"}, Identity: client, Known: true, Listeners: []string{"outbound"},
				Outbound: []proxy.ConnectionInfo{{ID: 1, Direction: "outbound", Src: netip.MustParseAddrPort("10.1.0.1:4000"), Dst: netip.MustParseAddrPort("10.1.0.2:15008"),
					Target: netip.MustParseAddrPort("10.1.0.2:8080"), Protocol: "HBONE", Reason: reason.Tunnel}}}}
		},
	})))
	t.Cleanup(z.Close)
	out := &world{objects: func() kube.SourceStatus { return kube.SourceStatus{Synced: true} }, ztunnel: z.URL, dir: t.TempDir(), stats: func() (broker.Stats, error) { return broker.Stats{Ztunnels: 1, Repairs: 3}, nil }}
	sources := debug.Sources{
		Node: "a", Snapshot: func() *mesh.Snapshot { return snap }, Level: new(slog.LevelVar),
		Pods: func() []debug.Pod {
			return []debug.Pod{{Namespace: "shop", Name: "client", Enrolled: true, State: "captured"}, {Namespace: "shop", Name: "plain"}}
		},
		Problems: func() []kube.Problem { return out.problems },
		Objects:  func() kube.SourceStatus { return out.objects() },
		BPF:      func(context.Context) (broker.Stats, error) { return out.stats() },
		Ztunnel: func(ctx context.Context) (net.Conn, error) {
			return broker.DialNewest(ctx, out.dir, "ztunnel", "admin")
		},
	}
	a := httptest.NewServer(localhost.Only(debug.Handler(sources)))
	t.Cleanup(a.Close)
	out.agent = a.URL
	for what, h := range map[string]http.Handler{"ztunnel-1-admin.sock": z.Config.Handler, "agent-1-debug.sock": a.Config.Handler} {
		l, err := net.Listen("unix", filepath.Join(out.dir, what))
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: h}
		t.Cleanup(func() { _ = s.Close() })
		go func() { _ = s.Serve(l) }()
	}
	return out
}

func command(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out, stderr bytes.Buffer
	c := New()
	c.SetOut(&out)
	c.SetErr(&stderr)
	c.SetArgs(args)
	err = c.ExecuteContext(t.Context())
	if err != nil && !strings.Contains(stderr.String(), err.Error()) {
		t.Errorf("%v: the error is not told: %q", args, stderr.String())
	}
	return out.String(), err
}

// ways are all there are to reach the pages.
func (w *world) ways() map[string][]string {
	return map[string][]string{"ztunnel": {"--ztunnel", w.ztunnel}, "agent": {"--agent", w.agent}, "run dir": {"--run-dir", w.dir}}
}

// TestCellsAreHarmless: who may annotate a pod writes on the operator's terminal neither codes nor rows.
func TestCellsAreHarmless(t *testing.T) {
	var b strings.Builder
	s := &Sources{format: table}
	if err := s.print(&b, nil, "CHECK, STATE", [][]string{{"pod shop/web", "x\x1b]0;y\x07\npod shop/web\tok\r\u009b2J"}}); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n"); len(lines) != 2 || strings.ContainsFunc(lines[1], unicode.IsControl) {
		t.Errorf("%q", b.String())
	}
}

func TestTables(t *testing.T) {
	w := newWorld(t)
	for name, way := range w.ways() {
		for _, tt := range []struct {
			args []string
			want []string // words of lines
		}{
			{[]string{"workloads"}, []string{"NAMESPACE POD NAME ADDRESS NODE WAYPOINT PROTOCOL CAPTURE", "shop client 10.1.0.1 a None HBONE captured", "shop late 10.1.0.3 a None TCP pending"}},
			{[]string{"services", "-n", "shop"}, []string{"NAMESPACE SERVICE NAME SERVICE VIP WAYPOINT ENDPOINTS", "shop web 10.96.0.1 None 1/1"}},
			{[]string{"policies"}, []string{"NAMESPACE POLICY NAME ACTION SCOPE", "shop nothing Allow Namespace"}},
			{[]string{"certificates"}, []string{"CERTIFICATE NAME TYPE STATUS VALID CERT SERIAL NUMBER NOT AFTER NOT BEFORE", "spiffe://cluster.local/ns/shop/sa/client Leaf Available true 2a"}},
			{[]string{"connections", "--direction", "outbound"}, []string{"WORKLOAD DIRECTION LOCAL REMOTE REMOTE TARGET PROTOCOL", "shop/client Outbound 10.1.0.1:4000 10.1.0.2:15008 10.1.0.2:8080 HBONE"}},
			{[]string{"top", "--window", "30s"}, []string{"per second, over the last 30 s", "POD PEER DIRECTION OPEN SENT B/S RECEIVED B/S OPENED/S FAILED/S",
				"shop/client (all) - 1 100 0 0 0", "shop/client web.shop.svc.cluster.local outbound - 100 0 0 0"}},
			{[]string{"explain", "shop/client", "web:80"}, []string{"shop/client on a -> web:80: refused, POLICY_NO_ALLOW", "it has no rules"}},
		} {
			out, err := command(t, append(tt.args, way...)...)
			if err != nil {
				t.Errorf("%s: %v: %v", name, tt.args, err)
			}
			flat := strings.Join(strings.Fields(out), " ")
			for _, want := range tt.want {
				if !strings.Contains(flat, want) {
					t.Errorf("%s: %v lacks %q:\n%s", name, tt.args, want, out)
				}
			}
		}
	}
	if out, _ := command(t, "workloads", "-n", "nowhere", "--ztunnel", w.ztunnel); strings.Contains(out, "shop") {
		t.Errorf("a namespace that is not there: %s", out)
	}
}

func TestJSONAndYAML(t *testing.T) {
	w := newWorld(t)
	for _, args := range [][]string{{"workloads"}, {"services"}, {"policies"}, {"certificates"}, {"connections"}, {"status"}, {"top"}, {"explain", "10.1.0.1", "10.96.0.1:80"}} {
		asJSON, err := command(t, append(args, "--run-dir", w.dir, "-o", "json")...)
		asYAML, yerr := command(t, append(args, "--run-dir", w.dir, "-o", "yaml")...)
		if err != nil || yerr != nil || !json.Valid([]byte(asJSON)) {
			t.Fatalf("%v: %v, %v\n%s", args, err, yerr, asJSON)
		}
		var a, b any
		if err := json.Unmarshal([]byte(asJSON), &a); err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal([]byte(asYAML), &b); err != nil {
			t.Fatal(err)
		}
		if args[0] == "top" {
			if got := a.(map[string]any); got["seconds"] != 10.0 || len(got["pods"].([]any)) != 1 || len(b.(map[string]any)["pods"].([]any)) != 1 {
				t.Errorf("%v", got)
			}
		} else if args[0] == "explain" {
			if got := a.(map[string]any); got["verdict"] != string(explain.Refused) || got["reason"] != "POLICY_NO_ALLOW" || b.(map[string]any)["policy"] != "shop/nothing" {
				t.Errorf("%v", got)
			}
		} else if x, ok := a.([]any); !ok || len(x) == 0 || len(b.([]any)) != len(x) {
			t.Errorf("%v: %s", args, asJSON)
		}
	}
}

func TestStatus(t *testing.T) {
	w := newWorld(t)
	out, err := command(t, "status", "--agent", w.agent)
	if err != nil || !strings.Contains(out, "1 of 1 enrolled pods captured") || !strings.Contains(out, "1 of 1 certificates") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := command(t, "status", "--ztunnel", w.ztunnel); err != nil || strings.Contains(out, "agent") {
		t.Errorf("only ztunnel is asked: %v\n%s", err, out)
	}
	w.problems = []kube.Problem{{Object: "Service shop/web", Err: errors.New("bad port")}}
	w.stats = func() (broker.Stats, error) { return broker.Stats{}, errors.New("no broker") }
	out, err = command(t, "status", "--agent", w.agent)
	if err == nil || !strings.Contains(out, "bad port") || !strings.Contains(out, "no broker") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestStatusWithoutAPIServer: an agent that hears of no changes is not well.
func TestStatusWithoutAPIServer(t *testing.T) {
	w := newWorld(t)
	at := time.Date(2026, 11, 29, 1, 2, 3, 0, time.UTC)
	away := kube.KindStatus{Kind: "Pod", Synced: true, Contact: at, Error: "connection refused"}
	for _, tt := range []struct {
		from kube.SourceStatus
		want string // part of the detail; "" for well
	}{
		{kube.SourceStatus{Synced: true, Kinds: []kube.KindStatus{{Kind: "Pod", Synced: true, Contact: at}}}, ""},
		{kube.SourceStatus{Synced: true, Kinds: []kube.KindStatus{{Kind: "Node", Synced: true}, away}},
			"1 of 2 kinds of objects can't be watched, last contact at 2026-11-29T01:02:03Z (Pod: connection refused)"},
		{kube.SourceStatus{Synced: true, Stale: true, Written: at, Kinds: []kube.KindStatus{{Kind: "Pod", Error: "connection refused"}}},
			"serves a stale snapshot, written at 2026-11-29T01:02:03Z: the API server is away (Pod: connection refused)"},
	} {
		w.objects = func() kube.SourceStatus { return tt.from }
		out, err := command(t, "status", "--agent", w.agent)
		if (err == nil) != (tt.want == "") || !strings.Contains(out, tt.want) {
			t.Errorf("want %q: %v\n%s", tt.want, err, out)
		}
	}
}

func TestComplaints(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"workloads", "-o", "xml", "--ztunnel", w.ztunnel}, "want table, json, yaml"},
		{[]string{"workloads", "--run-dir", t.TempDir()}, "no ztunnel listens"},
		{[]string{"workloads", "extra"}, "unknown command"},
		{[]string{"explain", "shop/client", "web", "--ztunnel", w.ztunnel}, "want DST:PORT"},
		{[]string{"explain", "shop/client", "--ztunnel", w.ztunnel}, "accepts 2 arg"},
		{[]string{"explain", "shop/nobody", "web:80", "--ztunnel", w.ztunnel}, "not found"},
		{[]string{"explain", "shop/client", "web:0", "--ztunnel", w.ztunnel}, "port: want"},
		{[]string{"connections", "--direction", "up", "--ztunnel", w.ztunnel}, "want inbound or outbound"},
		{[]string{"policies", "--ztunnel", "http://127.0.0.1:1"}, "connection refused"},
	} {
		if _, err := command(t, tt.args...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: %v, want %q", tt.args, err, tt.want)
		}
	}
}

func TestCompletion(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"__complete", "--run-dir", w.dir, "explain", ""}, "shop/web-1\n"},
		{[]string{"__complete", "--run-dir", w.dir, "explain", "shop/client", ""}, "shop/web:80\n"},
		{[]string{"__complete", "workloads", "-o", ""}, "yaml\n"},
		{[]string{"completion", "bash"}, "warrenctl"},
	} {
		if out, err := command(t, tt.args...); err != nil || !strings.Contains(out, tt.want) {
			t.Errorf("%v: %v\n%s", tt.args, err, out)
		}
	}
}

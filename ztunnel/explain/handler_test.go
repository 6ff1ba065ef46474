// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/explain"
	"github.com/warren-mesh/warren/mesh/reason"
)

// shop is a client and a server of which a policy lets in another account only.
func shop() *mesh.Snapshot {
	web := mesh.Name{Namespace: "shop", Name: "web"}
	pod := func(name string, addr string, of map[mesh.Name]mesh.EndpointPorts) mesh.Change {
		return mesh.PutWorkload{Workload: &mesh.Workload{UID: "c//Pod/shop/" + name, PodUID: "uid-" + name, Namespace: "shop", Name: name, ServiceAccount: name,
			Node: "n1", Addresses: []netip.Addr{netip.MustParseAddr(addr)}, Capture: mesh.Captured, Ready: name != "web-2", Services: of}}
	}
	ports := map[mesh.Name]mesh.EndpointPorts{web: {80: 8080}}
	return mesh.NewSnapshot().With(
		mesh.PutService{Service: &mesh.Service{Namespace: "shop", Name: "web", Hostname: "web.shop.svc.cluster.local",
			Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Ports: []mesh.ServicePort{{Port: 80, TargetPort: 8080}}}},
		pod("client", "10.1.0.1", nil), pod("web-1", "10.1.0.2", ports), pod("web-2", "10.1.0.3", ports),
		mesh.PutPolicy{Policy: &mesh.Policy{Name: mesh.Name{Namespace: "shop", Name: "guard"}, Scope: mesh.ScopeNamespace, Rules: []mesh.Rule{{Clauses: []mesh.Clause{
			{Matches: []mesh.Match{{ServiceAccounts: []mesh.Name{{Namespace: "shop", Name: "cart"}}}}}, {Matches: []mesh.Match{{DestinationPorts: []uint16{8080}}}}}}}}},
	)
}

func TestHandler(t *testing.T) {
	snap := shop()
	e := Explainer{Node: "n1", Snapshot: func() *mesh.Snapshot { return snap }}
	get := func(query, accept string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, "/debug/explain?"+query, nil)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		e.ServeHTTP(w, r)
		return w
	}
	for _, dst := range []string{"shop/web", "service/shop/web", "web", "web.shop", "web.shop.svc", "WEB.shop.svc.cluster.local", "10.96.0.1"} {
		var a explain.Answer
		w := get("src=shop/client&dst="+dst+"&port=80", "")
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || w.Code != 200 {
			t.Fatalf("%s: %d %v %s", dst, w.Code, err, w.Body)
		}
		if a.Verdict != explain.Refused || a.Reason != reason.PolicyNoAllow || a.Policy != "shop/guard" || a.Destination.Service != "shop/web" {
			t.Errorf("%s: %+v", dst, a)
		}
		if len(a.Endpoints) != 2 || len(a.Outcomes) != 1 || a.Outcomes[0].Client.Logged != reason.PeerRefused {
			t.Errorf("%s: endpoints %+v, outcomes %+v", dst, a.Endpoints, a.Outcomes)
		}
	}
	text := get("src=uid-client&dst=shop/web&port=80", "text/plain").Body.String()
	for _, want := range []string{"shop/client on n1 -> shop/web:80: refused, POLICY_NO_ALLOW", "(policy shop/guard)", "not ready",
		"inside this ztunnel to 10.1.0.2:8080, without TLS; witness to 10.1.0.2:15008", "in process from 10.1.0.1, spiffe://cluster.local/ns/shop/sa/client",
		"* ALLOW shop/guard, namespace: does not match", "rules[0] wants another service account: {serviceAccounts=shop/cart}"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text lacks %q:\n%s", want, text)
		}
	}
	encrypted := *snap.Config()
	encrypted.SameNodeTLS = true
	with := Explainer{Node: "n1", Snapshot: func() *mesh.Snapshot { return snap.With(mesh.PutConfig{Config: &encrypted}) }}
	a, err := with.Explain(Query{Source: "shop/client", Destination: "shop/web", Port: 80})
	if err != nil || a.Outcomes[0].Client.Authority != "10.1.0.2:8080" || a.Outcomes[0].Client.Witness != "" || a.Outcomes[0].Server.Protocol != "HBONE" {
		t.Errorf("with TLS on the same node: %v, %+v", err, a)
	}
	byConfig := mesh.Name{Namespace: "warren-system", Name: mesh.MeshConfigStrict}
	server, client := *snap.WorkloadByAddr(netip.MustParseAddr("10.1.0.2")), *snap.WorkloadByAddr(netip.MustParseAddr("10.1.0.1"))
	server.Policies, client.Capture = []mesh.Name{byConfig}, mesh.Outside
	held := snap.With(mesh.PutWorkload{Workload: &server}, mesh.PutWorkload{Workload: &client}, mesh.PutPolicy{Policy: &mesh.Policy{
		Name: byConfig, Scope: mesh.ScopeWorkload, Action: mesh.Deny, Strict: true,
		Rules: []mesh.Rule{{Clauses: []mesh.Clause{{Matches: []mesh.Match{{NotPrincipals: []mesh.StringMatch{{Kind: mesh.MatchPresence}}}}}}}}}})
	with = Explainer{Node: "n1", Snapshot: func() *mesh.Snapshot { return held }}
	a, err = with.Explain(Query{Source: "shop/client", Destination: "shop/web-1", Port: 8080})
	if err != nil || a.Reason != reason.StrictMTLS || a.ReasonText != "MeshConfig STRICT: the peer has no mesh identity" || a.Outcomes[0].ReasonText != a.ReasonText {
		t.Errorf("by the MeshConfig: %v, %+v", err, a)
	}
	e.Certificate = func(id mesh.Identity) string { return "no certificate for " + id.ServiceAccount }
	if text := get("src=shop/client&dst=shop/web&port=80&format=text", "").Body.String(); !strings.Contains(text, "note       no certificate for client") {
		t.Errorf("the text lacks the certificate:\n%s", text)
	}
	for _, tt := range []struct {
		query string
		code  int
	}{
		{"src=shop/client&dst=shop/web", 400}, {"src=shop/client&dst=shop/web&port=0", 400}, {"src=shop/client&dst=shop/web&port=65536", 400},
		{"dst=shop/web&port=80", 400}, {"src=shop/client&port=80", 400}, {"src=shop/client&dst=shop/web&port=80&family=5", 400},
		{"src=shop/client&dst=shop/web&port=80&format=xml", 400}, {"src=shop/nobody&dst=shop/web&port=80", 404},
		{"src=shop/client&dst=shop/nothing&port=80", 404}, {"src=shop/client&dst=example.com&port=80", 404},
		{"src=shop/client&dst=shop/web&port=80&family=6", 404}, {"src=shop/client&dst=pod/shop/web-1&port=80&family=ipv4", 200},
		{"src=192.0.2.1&dst=pod/shop/web-1&port=8080", 200},
	} {
		if w := get(tt.query, ""); w.Code != tt.code {
			t.Errorf("%s: %d, want %d: %s", tt.query, w.Code, tt.code, w.Body)
		}
	}
	w := httptest.NewRecorder()
	if e.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/debug/explain?src=shop/client&dst=shop/web&port=80", nil)); w.Code != 405 {
		t.Errorf("POST: %d", w.Code)
	}
}

// FuzzHandler: whatever is asked is answered, or refused as the asker's mistake.
func FuzzHandler(f *testing.F) {
	f.Add("shop/client", "shop/web", "80", "4", "text")
	f.Add("uid-client", "web", "80", "", "json")
	f.Add("10.1.0.1", "[::1]", "15008", "6", "")
	f.Add("::ffff:10.1.0.1", "fe80::1%eth0", "1", "ipv6", "text")
	f.Add("pod/shop/client", "service/shop/web", "65535", "0", "")
	snap := shop()
	e := Explainer{Node: "n1", Snapshot: func() *mesh.Snapshot { return snap }}
	f.Fuzz(func(t *testing.T, src, dst, port, family, format string) {
		q := url.Values{"src": {src}, "dst": {dst}, "port": {port}, "family": {family}, "format": {format}}
		w := httptest.NewRecorder()
		e.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/debug/explain?"+q.Encode(), nil))
		switch w.Code {
		case http.StatusOK, http.StatusBadRequest, http.StatusNotFound:
		default:
			t.Errorf("%v: %d", q, w.Code)
		}
	})
}

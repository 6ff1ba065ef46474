// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/netip"
	"testing"

	"github.com/warren-mesh/warren/mesh"
)

func TestClientOf(t *testing.T) {
	peer := netip.MustParseAddrPort("10.1.0.1:4000")
	peer6 := netip.MustParseAddrPort("[fd00::1]:4000")
	tests := []struct {
		name, header string
		peer         netip.AddrPort
		want         string
	}{
		{"the client's own port", `for="10.1.0.1:5000"`, peer, "10.1.0.1:5000"},
		{"with a host", `for="10.1.0.1:5000";host=web.shop.svc.cluster.local`, peer, "10.1.0.1:5000"},
		{"behind another parameter", `proto=tcp; For="10.1.0.1:5000"`, peer, "10.1.0.1:5000"},
		{"v6", `for="[fd00::1]:5000"`, peer6, "[fd00::1]:5000"},
		{"v4-mapped", `for="[::ffff:10.1.0.1]:5000"`, peer, "10.1.0.1:5000"},
		{"not quoted", `for=10.1.0.1:5000`, peer, "10.1.0.1:5000"},
		{"another address is not believed", `for="10.1.0.9:5000"`, peer, "10.1.0.1:4000"},
		{"only the first element counts", `for="10.1.0.9:5000", for="10.1.0.1:5000"`, peer, "10.1.0.1:4000"},
		{"no port", `for="10.1.0.1"`, peer, "10.1.0.1:4000"},
		{"port 0", `for="10.1.0.1:0"`, peer, "10.1.0.1:4000"},
		{"nothing", "", peer, "10.1.0.1:4000"},
		{"nonsense", `for=";=,`, peer, "10.1.0.1:4000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := clientOf(tt.header, tt.peer); got.String() != tt.want {
				t.Errorf("got %v, want %s", got, tt.want)
			}
		})
	}
}

func TestForwardedRoundTrip(t *testing.T) {
	for _, s := range []string{"10.1.0.1:5000", "[fd00::1]:5000"} {
		src := netip.MustParseAddrPort(s)
		if got := forwardedFor(forwarded(src, &mesh.Service{Hostname: "web.shop.svc.cluster.local"})); got != src {
			t.Errorf("got %v, want %v", got, src)
		}
	}
}

func FuzzForwarded(f *testing.F) {
	f.Add(`for="10.1.0.1:5000";host=x`)
	f.Add(`for="[fd00::1]:5000", for=_hidden`)
	peer := netip.MustParseAddrPort("10.1.0.1:4000")
	f.Fuzz(func(t *testing.T, header string) {
		if got := clientOf(header, peer); got.Addr() != peer.Addr() || got.Port() == 0 {
			t.Errorf("%q makes the client %v", header, got)
		}
	})
}

func TestBaggage(t *testing.T) {
	w := &mesh.Workload{Namespace: "shop", Name: "web-1", WorkloadName: "web", WorkloadType: "deployment", CanonicalName: "web", Cluster: "k"}
	if got, want := baggage(w), "k8s.cluster.name=k,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := baggage(&mesh.Workload{Namespace: "shop", Name: "web-1"}), "k8s.namespace.name=shop,k8s.pod.name=web-1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := baggage(nil); got != "" {
		t.Errorf("got %s for nobody", got)
	}
}

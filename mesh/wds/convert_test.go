// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/wds/authzpb"
	"github.com/warren-mesh/warren/mesh/wds/warrenpb"
	"github.com/warren-mesh/warren/mesh/wds/workloadpb"
)

var addrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

// through encodes and decodes m, as the wire would.
func through[M proto.Message](t *testing.T, m M) M {
	t.Helper()
	b, err := deterministic.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	out := m.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(b, out); err != nil {
		t.Fatal(err)
	}
	return out.(M)
}

func TestEveryFieldSurvives(t *testing.T) {
	filled := map[string]map[string]bool{}
	for seed := range uint64(500) {
		r := newMaker(seed)
		for _, v := range []struct {
			in  any
			out func() (any, error)
		}{
			{r.workload(), nil}, {r.service(), nil}, {r.policy(), nil}, {r.config(), nil},
		} {
			out, err := roundTrip(t, v.in)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if d := cmp.Diff(v.in, out, addrs); d != "" {
				t.Fatalf("seed %d (-want +got):\n%s", seed, d)
			}
			noteFilled(filled, v.in)
		}
	}
	// A field added to mesh must be added to the maker, and so to the conversion.
	for _, v := range []any{mesh.Workload{}, mesh.Service{}, mesh.Policy{}, mesh.Config{}} {
		ty := reflect.TypeOf(v)
		for i := range ty.NumField() {
			if f := ty.Field(i).Name; !filled[ty.Name()][f] {
				t.Errorf("%s.%s was never set: the test says nothing of it", ty.Name(), f)
			}
		}
	}
}

func roundTrip(t *testing.T, in any) (any, error) {
	t.Helper()
	switch v := in.(type) {
	case *mesh.Workload:
		return ToWorkload(through(t, FromWorkload(v, "example.org")))
	case *mesh.Service:
		return ToService(through(t, FromService(v, "example.org")))
	case *mesh.Policy:
		return ToPolicy(through(t, FromPolicy(v)))
	default:
		return ToConfig(through(t, FromConfig(v.(*mesh.Config))))
	}
}

func noteFilled(filled map[string]map[string]bool, in any) {
	v := reflect.ValueOf(in).Elem()
	name := v.Type().Name()
	if filled[name] == nil {
		filled[name] = make(map[string]bool)
	}
	for i := range v.NumField() {
		if !v.Field(i).IsZero() {
			filled[name][v.Type().Field(i).Name] = true
		}
	}
}

func TestForeignWorkloads(t *testing.T) {
	v4 := netip.MustParseAddr("10.0.0.1")
	for _, tt := range []struct {
		name string
		in   *workloadpb.Workload
		want *mesh.Workload
	}{
		{"HBONE is captured", &workloadpb.Workload{
			Uid: "c//Pod/ns/p", Name: "p", Namespace: "ns", TunnelProtocol: workloadpb.TunnelProtocol_HBONE,
			Addresses: [][]byte{v4.AsSlice()}, WorkloadType: workloadpb.WorkloadType_CRONJOB,
		}, &mesh.Workload{
			UID: "c//Pod/ns/p", Name: "p", Namespace: "ns", Capture: mesh.Captured, ServiceAccount: "default",
			Addresses: []netip.Addr{v4}, WorkloadType: "cronjob", Ready: true,
		}},
		{"NONE is outside", &workloadpb.Workload{Uid: "c//Pod/ns/p", Status: workloadpb.WorkloadStatus_UNHEALTHY},
			&mesh.Workload{UID: "c//Pod/ns/p", Capture: mesh.Outside, WorkloadType: "deployment"}},
		{"a sidecar's own protocol is not spoken", &workloadpb.Workload{
			Uid: "c//Pod/ns/p", ServiceAccount: "sa", TunnelProtocol: workloadpb.TunnelProtocol_LEGACY_ISTIO_MTLS,
		}, &mesh.Workload{
			UID: "c//Pod/ns/p", Capture: mesh.Pending, CaptureReason: "tunnel protocol LEGACY_ISTIO_MTLS",
			ServiceAccount: "sa", WorkloadType: "deployment", Ready: true,
		}},
		{"services by host name, mapped address, unresolved port", &workloadpb.Workload{
			Uid: "u", Addresses: [][]byte{netip.MustParseAddr("::ffff:10.0.0.1").AsSlice()},
			Services: map[string]*workloadpb.PortList{
				"ns/web.ns.svc.corp.example": {Ports: []*workloadpb.Port{{ServicePort: 80, TargetPort: 8080}, {ServicePort: 81}}},
				"ns/api.example.com":         {},
			},
		}, &mesh.Workload{
			UID: "u", Addresses: []netip.Addr{v4}, WorkloadType: "deployment", Ready: true,
			Services: map[mesh.Name]mesh.EndpointPorts{
				{Namespace: "ns", Name: "web"}: {80: 8080}, {Namespace: "ns", Name: "api.example.com"}: {},
			},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ToWorkload(through(t, tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got, addrs); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestWhatForeignReadersSee(t *testing.T) {
	for capture, want := range map[mesh.Capture]workloadpb.TunnelProtocol{
		mesh.Outside:             workloadpb.TunnelProtocol_NONE,
		mesh.Captured:            workloadpb.TunnelProtocol_HBONE,
		mesh.ReadyBeforeEnrolled: workloadpb.TunnelProtocol_NONE,
		mesh.Pending:             workloadpb.TunnelProtocol_HBONE, // never plaintext to what is only pending
	} {
		if got := FromWorkload(&mesh.Workload{UID: "u", Capture: capture}, "d").TunnelProtocol; got != want {
			t.Errorf("%v: got %v, want %v", capture, got, want)
		}
	}
}

func TestForeignServices(t *testing.T) {
	m := &workloadpb.Service{
		Name: "entry", Namespace: "ns", Hostname: "api.example.com",
		Ports: []*workloadpb.Port{{ServicePort: 443, TargetPort: 8443, AppProtocol: workloadpb.AppProtocol_GRPC}},
		WeightedWaypoints: []*workloadpb.WeightedWaypoint{{Destination: &workloadpb.GatewayAddress{
			Destination: &workloadpb.GatewayAddress_Address{Address: &workloadpb.NetworkAddress{Address: []byte{10, 1, 1, 1}}},
		}}},
	}
	got, err := ToService(through(t, m))
	if err != nil {
		t.Fatal(err)
	}
	want := &mesh.Service{
		Namespace: "ns", Name: "api.example.com", Hostname: "api.example.com",
		Ports:    []mesh.ServicePort{{Port: 443, TargetPort: 8443, AppProtocol: "grpc"}},
		Waypoint: mesh.Name{Namespace: "ns", Name: "10.1.1.1"}, // no service has this name: nothing goes around it
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestForeignStrict(t *testing.T) {
	for name, want := range map[string]bool{
		"istio_converted_static_strict": true, "converted_peer_authentication_db": true, "istio_other": false,
	} {
		p, err := ToPolicy(&authzpb.Authorization{Name: name, Namespace: "istio-system", Action: authzpb.Action_DENY})
		if err != nil || p.Strict != want {
			t.Errorf("%s: strict %v, %v", name, p.Strict, err)
		}
	}
}

// Who does not know AUDIT enforces nothing, and what of it can't be read refuses nobody.
func TestAuditForForeignReaders(t *testing.T) {
	for _, dry := range []bool{false, true} {
		m := FromPolicy(&mesh.Policy{Name: mesh.Name{Namespace: "ns", Name: "n"}, Action: mesh.Audit, DryRun: dry})
		if m.Action != authzpb.Action_DENY || !m.DryRun {
			t.Errorf("got %v, dry run %v", m.Action, m.DryRun)
		}
		m.Scope = 7
		if p, ok := refusal(through(t, m)); ok {
			t.Errorf("stands in for it: %+v", p)
		}
	}
}

func TestRefusedMessages(t *testing.T) {
	wl := func(f func(*workloadpb.Workload)) func() error {
		return func() error {
			m := &workloadpb.Workload{Uid: "u"}
			f(m)
			_, err := ToWorkload(m)
			return err
		}
	}
	svc := func(f func(*workloadpb.Service)) func() error {
		return func() error {
			m := &workloadpb.Service{Namespace: "ns", Hostname: "h"}
			f(m)
			_, err := ToService(m)
			return err
		}
	}
	match := func(m *authzpb.Match) func() error {
		return func() error {
			_, err := ToPolicy(&authzpb.Authorization{Name: "n", Namespace: "ns", Rules: []*authzpb.Rule{
				{Clauses: []*authzpb.Clause{{Matches: []*authzpb.Match{m}}}}}})
			return err
		}
	}
	newer := through(t, &warrenpb.WorkloadExtension{Capture: 99})
	for name, f := range map[string]func() error{
		"no uid":              wl(func(m *workloadpb.Workload) { m.Uid = "" }),
		"short address":       wl(func(m *workloadpb.Workload) { m.Addresses = [][]byte{{1, 2, 3}} }),
		"policy's name":       wl(func(m *workloadpb.Workload) { m.AuthorizationPolicies = []string{"nameless"} }),
		"service's name":      wl(func(m *workloadpb.Workload) { m.Services = map[string]*workloadpb.PortList{"x": {}} }),
		"workload's waypoint": wl(func(m *workloadpb.Workload) { m.Waypoint = &workloadpb.GatewayAddress{} }),
		"unknown capture":     wl(func(m *workloadpb.Workload) { m.Extensions = pack(newer) }),
		"broken extension": wl(func(m *workloadpb.Workload) {
			m.Extensions = []*workloadpb.Extension{{Config: &anypb.Any{TypeUrl: typePrefix + "warren.v1alpha1.WorkloadExtension", Value: []byte{0xff}}}}
		}),
		"port out of range": wl(func(m *workloadpb.Workload) {
			m.Services = map[string]*workloadpb.PortList{"ns/h": {Ports: []*workloadpb.Port{{ServicePort: 1, TargetPort: 70000}}}}
		}),
		"no host name": svc(func(m *workloadpb.Service) { m.Hostname = "" }),
		"range of VIPs": svc(func(m *workloadpb.Service) {
			m.Addresses = []*workloadpb.NetworkAddress{{Address: []byte{10, 0, 0, 0}, Length: proto.Uint32(8)}}
		}),
		"waypoint nowhere":   svc(func(m *workloadpb.Service) { m.Waypoint = &workloadpb.GatewayAddress{} }),
		"match extension":    match(&authzpb.Match{Extensions: []*authzpb.Extension{{Name: "x"}}}),
		"match without kind": match(&authzpb.Match{Namespaces: []*authzpb.StringMatch{{}}}),
		"prefix length":      match(&authzpb.Match{SourceIps: []*authzpb.Address{{Address: []byte{1, 2, 3, 4}, Length: 33}}}),
		"policy port":        match(&authzpb.Match{DestinationPorts: []uint32{65536}}),
		"account nameless":   match(&authzpb.Match{ServiceAccounts: []*authzpb.ServiceAccountMatch{{Namespace: "ns"}}}),
		"unknown scope": func() error {
			_, err := ToPolicy(&authzpb.Authorization{Name: "n", Namespace: "ns", Scope: 7})
			return err
		},
		"unknown action": func() error {
			_, err := ToPolicy(&authzpb.Authorization{Name: "n", Namespace: "ns", Action: 7})
			return err
		},
		"config drain": func() error {
			_, err := ToConfig(&warrenpb.Config{Drain: &durationpb.Duration{Seconds: 1 << 62}})
			return err
		},
		"config prefix": func() error { _, err := ToConfig(&warrenpb.Config{ClusterCidrs: []string{"10.0.0.0"}}); return err },
	} {
		if f() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestCapturedAt(t *testing.T) {
	now := time.Unix(1000, 0)
	before, after := now.Add(-time.Minute), now.Add(time.Minute)
	captured := func(at time.Time) *mesh.Workload {
		return &mesh.Workload{UID: "u", PodUID: "p", Capture: mesh.Captured, CapturedAt: at}
	}
	pending := &mesh.Workload{UID: "u", PodUID: "p", Capture: mesh.Pending}
	other := &mesh.Workload{UID: "u", PodUID: "q", Capture: mesh.Captured, CapturedAt: before}
	for _, tt := range []struct {
		name   string
		old, w *mesh.Workload
		want   time.Time
	}{
		{"not captured", captured(before), pending, time.Time{}},
		{"captured from the beginning", nil, captured(time.Time{}), time.Time{}},
		{"seen to begin", pending, captured(time.Time{}), now},
		{"seen to begin, sender knows when", pending, captured(before), before},
		{"sender's clock is ahead", pending, captured(after), now},
		{"sender knows, first seen", nil, captured(before), before},
		{"stays", captured(before), captured(time.Time{}), before},
		{"stays, new sender has no date", captured(time.Time{}), captured(now), time.Time{}},
		{"another pod of the name", other, captured(time.Time{}), time.Time{}},
	} {
		if got := capturedAt(tt.old, tt.w, now); !got.Equal(tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestConfigOfALaterVersion: a word this one does not know is the first of its kind, and the rest holds.
func TestConfigOfALaterVersion(t *testing.T) {
	c, err := ToConfig(&warrenpb.Config{MtlsStrict: true, AccessLog: &warrenpb.AccessLog{Mode: 9, Format: -1}})
	if err != nil || !c.MTLSStrict || c.AccessLog != (mesh.AccessLog{}) {
		t.Errorf("got %+v, %v", c, err)
	}
}

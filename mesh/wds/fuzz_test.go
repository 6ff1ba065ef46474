// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/wds/authzpb"
	"github.com/warren-mesh/warren/mesh/wds/workloadpb"
)

// FuzzDecode feeds the reader of resources: what it accepts can be sent on, and reads as the same again.
func FuzzDecode(f *testing.F) {
	for seed := range uint64(20) {
		r := newMaker(seed)
		for i, m := range []proto.Message{
			wrapWorkload(FromWorkload(r.workload(), "example.org")), wrapService(FromService(r.service(), "example.org")),
			FromPolicy(r.policy()), FromConfig(r.config()),
		} {
			b, err := deterministic.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(uint8(i), b)
		}
	}
	types := []string{TypeAddress, TypeAddress, TypeAuthorization, TypeConfig}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		typeURL := types[int(kind)%len(types)]
		change, err := decode(typeURL, &discovery.Resource{
			Name: nameOf(typeURL, b), Resource: &anypb.Any{TypeUrl: typeURL, Value: b},
		})
		if err != nil {
			return
		}
		var in any
		switch c := change.(type) {
		case mesh.PutWorkload:
			in = c.Workload
		case mesh.PutService:
			in = c.Service
		case mesh.PutPolicy:
			in = c.Policy
		case mesh.PutConfig:
			in = c.Config
		}
		out, err := roundTrip(t, in)
		if err != nil {
			t.Fatalf("accepted, but not when sent on: %v", err)
		}
		if d := cmp.Diff(in, out, addrs); d != "" {
			t.Errorf("reads differently when sent on (-first +then):\n%s", d)
		}
	})
}

// nameOf is the name an honest server would give the resource.
func nameOf(typeURL string, b []byte) string {
	switch typeURL {
	case TypeConfig:
		return ConfigName
	case TypeAuthorization:
		m := &authzpb.Authorization{}
		_ = proto.Unmarshal(b, m)
		return m.GetNamespace() + "/" + m.GetName()
	}
	m := &workloadpb.Address{}
	_ = proto.Unmarshal(b, m)
	if s := m.GetService(); s != nil {
		return s.Namespace + "/" + s.Hostname
	}
	return m.GetWorkload().GetUid()
}

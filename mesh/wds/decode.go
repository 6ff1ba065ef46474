// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"errors"
	"fmt"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/wds/authzpb"
	"github.com/warren-mesh/warren/mesh/wds/warrenpb"
	"github.com/warren-mesh/warren/mesh/wds/workloadpb"
)

// decode reads one resource. With an error it may still return a change: what to do if there is no earlier
// version to stay with.
func decode(typeURL string, res *discovery.Resource) (mesh.Change, error) {
	if res.GetResource().GetTypeUrl() != typeURL {
		return nil, fmt.Errorf("resource is a %q", res.GetResource().GetTypeUrl())
	}
	body := res.Resource.Value
	switch typeURL {
	case TypeConfig:
		return decodeConfig(body)
	case TypeAuthorization:
		return decodePolicy(res.Name, body)
	default:
		return decodeAddress(res.Name, body)
	}
}

func decodeConfig(body []byte) (mesh.Change, error) {
	m := &warrenpb.Config{}
	if err := proto.Unmarshal(body, m); err != nil {
		return nil, err
	}
	c, err := ToConfig(m)
	if err != nil {
		return nil, err
	}
	return mesh.PutConfig{Config: c}, nil
}

func decodePolicy(name string, body []byte) (mesh.Change, error) {
	m := &authzpb.Authorization{}
	if err := proto.Unmarshal(body, m); err != nil {
		return nil, err
	}
	if err := named(name, m.Namespace+"/"+m.Name); err != nil {
		return nil, err
	}
	p, err := ToPolicy(m)
	if err == nil {
		return mesh.PutPolicy{Policy: p}, nil
	}
	if p, ok := refusal(m); ok {
		return mesh.PutPolicy{Policy: p}, err
	}
	return nil, err
}

func decodeAddress(name string, body []byte) (mesh.Change, error) {
	m := &workloadpb.Address{}
	if err := proto.Unmarshal(body, m); err != nil {
		return nil, err
	}
	switch t := m.Type.(type) {
	case *workloadpb.Address_Workload:
		if err := named(name, t.Workload.GetUid()); err != nil {
			return nil, err
		}
		if _, err := parseServiceKey(name); err == nil {
			return nil, errors.New("uid has the form of a service's name")
		}
		w, err := ToWorkload(t.Workload)
		if err != nil {
			return nil, err
		}
		return mesh.PutWorkload{Workload: w}, nil
	case *workloadpb.Address_Service:
		if err := named(name, t.Service.GetNamespace()+"/"+t.Service.GetHostname()); err != nil {
			return nil, err
		}
		s, err := ToService(t.Service)
		if err != nil {
			return nil, err
		}
		return mesh.PutService{Service: s}, nil
	}
	return nil, errors.New("neither workload nor service")
}

// named refuses a resource that goes by another name than its content: its removal would miss it.
func named(name, want string) error {
	if name != want {
		return fmt.Errorf("content is named %q", want)
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/restmapper"
)

// mapper finds the resource of a kind or of a short name, and asks the API server again when it knows none: tests install
// definitions all the time. Safe for concurrent use.
type mapper struct {
	discovery discovery.DiscoveryInterface

	mu    sync.Mutex
	known meta.RESTMapper // nil before the first question
}

func (m *mapper) mapping(kind schema.GroupVersionKind) (*meta.RESTMapping, error) {
	var found *meta.RESTMapping
	err := m.ask(func(known meta.RESTMapper) (err error) {
		found, err = known.RESTMapping(kind.GroupKind(), kind.Version)
		return err
	})
	return found, err
}

func (m *mapper) resource(name schema.GroupResource) (schema.GroupVersionResource, error) {
	var found schema.GroupVersionResource
	err := m.ask(func(known meta.RESTMapper) (err error) {
		found, err = known.ResourceFor(name.WithVersion(""))
		return err
	})
	return found, err
}

func (m *mapper) ask(question func(meta.RESTMapper) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known != nil {
		if err := question(m.known); !meta.IsNoMatchError(err) {
			return err
		}
	}
	groups, err := restmapper.GetAPIGroupResources(m.discovery)
	if err != nil {
		return fmt.Errorf("ask the API server for its resources: %w", err)
	}
	m.known = restmapper.NewDiscoveryRESTMapper(groups)
	return question(m.known)
}

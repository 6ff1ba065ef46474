// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/warren-mesh/warren/agent"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/mesh/kube/apiserver"
	"github.com/warren-mesh/warren/mesh/kube/informers"
	"github.com/warren-mesh/warren/mesh/manifests"
)

// origin is where objects come from and results go to: a directory, or the API server.
func origin(dir, kubeconfig string, cfg agent.Config, objects kube.Config) (agent.Source, kube.Publisher, error) {
	if dir != "" {
		if kubeconfig != "" {
			return nil, nil, errors.New("--manifests and --kubeconfig: objects come from one place only")
		}
		objects.ImplicitNamespaces = true
		return manifests.New(dir, objects, cfg.Log), &manifests.Publisher{Dir: dir, Node: cfg.Node}, nil
	}
	client, err := apiserver.Open(apiserver.Config{Kubeconfig: kubeconfig, UserAgent: "warren-agent/" + cfg.Version, Log: cfg.Log})
	if err != nil {
		return nil, nil, err
	}
	publisher, err := informers.NewPublisher(client, "warren-agent", cfg.Node, cfg.Log)
	if err != nil {
		return nil, nil, err
	}
	return informers.New(client, informers.Config{Objects: objects, StateDir: cfg.StateDir, Log: cfg.Log}), publisher, nil
}

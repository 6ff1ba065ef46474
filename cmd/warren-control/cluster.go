// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/warren-mesh/warren/control"
	"github.com/warren-mesh/warren/control/ca"
	"github.com/warren-mesh/warren/control/cluster"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/mesh/kube/apiserver"
	"github.com/warren-mesh/warren/mesh/kube/informers"
)

// runCluster runs control on a cluster, as one of several replicas.
func runCluster(ctx context.Context, kubeconfig string, authority ca.Config, objects kube.Config, cfg *control.Config, listeners func() error) error {
	log, namespace := cfg.Log, ca.ControlNamespace
	client, err := apiserver.Open(apiserver.Config{Kubeconfig: kubeconfig, UserAgent: "warren-control", Log: log})
	if err != nil {
		return err
	}
	identity, err := os.Hostname() // the pod's name
	if err != nil {
		return fmt.Errorf("name this replica: %w", err)
	}
	election, err := cluster.NewElection(client, namespace, identity, log)
	if err != nil {
		return err
	}
	source := informers.New(client, informers.Config{Objects: objects, Log: log})
	snapshot := control.SyncedSnapshot(source)
	prover, err := cluster.NewProver(cluster.ProverConfig{Client: client, Namespace: namespace, Snapshot: snapshot, Log: log})
	if err != nil {
		return err
	}
	bundle, err := cluster.NewBundle(cluster.BundleConfig{
		Client: client, Namespace: namespace, Term: election.Term, Snapshot: snapshot, Namespaces: source.Namespaces, Log: log,
	})
	if err != nil {
		return err
	}
	secret, err := cluster.NewSecret(client, namespace, election.Leading)
	if err != nil {
		return err
	}
	publisher, err := informers.NewPublisher(client, "warren-control", "", log)
	if err != nil {
		return err
	}
	authority.Storage = secret
	cfg.Prover, cfg.Objects, cfg.Publisher = prover, source, bundle
	cfg.Collectors = []prometheus.Collector{source, election, bundle}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return election.Run(ctx, func(term context.Context) { _ = source.PublishProblems(term, publisher) }) // ends with the term
	})
	g.Go(func() error { return prover.Run(ctx) })
	g.Go(func() error { return bundle.Run(ctx) })
	g.Go(func() (err error) {
		if cfg.Authority, err = cluster.OpenAuthority(ctx, authority); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if err := listeners(); err != nil {
			return err
		}
		return control.Run(ctx, *cfg)
	})
	return g.Wait()
}

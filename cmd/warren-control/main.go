// SPDX-License-Identifier: Apache-2.0

// Command warren-control is the mesh's certificate authority. See package control.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/warren-mesh/warren/cmd/internal/exit"
	"github.com/warren-mesh/warren/control"
	"github.com/warren-mesh/warren/control/ca"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/mesh/manifests"
)

func main() { os.Exit(exit.Code(os.Stderr, "warren-control", run(os.Args[1:]))) }

func run(args []string) (err error) {
	fs := flag.NewFlagSet("warren-control", flag.ContinueOnError)
	dir := fs.String("manifests", "", "directory of Kubernetes YAML to read objects from, and to publish the root bundle in, in place of the API server")
	kubeconfig := fs.String("kubeconfig", "", "kubeconfig file of the API server; without it, and without --manifests, the pod's service account")
	tokens := fs.String("node-tokens", "", "with --manifests: directory of one token file per node, named like the node")
	var authority ca.Config
	fs.StringVar(&authority.Dir, "ca-dir", "", "with --manifests: directory of the authority's keys; an empty one gets a new authority")
	fs.StringVar(&authority.TrustDomain, "trust-domain", "cluster.local", "trust domain of the mesh's identities")
	fs.DurationVar(&authority.LeafTTL, "leaf-ttl", ca.DefaultLeafTTL, "lifetime of workloads' certificates, and the most a request gets")
	excluded := fs.String("exclude-namespaces", "kube-system,warren-system", "namespaces whose pods are never captured")
	listen := fs.String("listen", ":15012", "CreateCertificate (gRPC)")
	metrics := fs.String("metrics-address", ":15020", "Prometheus endpoint, /metrics")
	ready := fs.String("ready-address", ":15021", "readiness endpoint, /healthz/ready")
	var level slog.LevelVar
	fs.TextVar(&level, "log-level", new(slog.LevelVar), "debug, info, warn or error")
	if err := fs.Parse(args); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: &level}))
	authority.Log = log
	objects := kube.Config{TrustDomain: authority.TrustDomain, ExcludedNamespaces: strings.Split(*excluded, ","), IgnoreCaptured: true}
	cfg := control.Config{Log: log}
	listeners := func() (err error) {
		for _, l := range []struct {
			to   *net.Listener
			flag string
			addr string
		}{{&cfg.CA, "listen", *listen}, {&cfg.Metrics, "metrics-address", *metrics}, {&cfg.Ready, "ready-address", *ready}} {
			if *l.to, err = net.Listen("tcp", l.addr); err != nil {
				return fmt.Errorf("--%s: %w", l.flag, err)
			}
		}
		return nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	switch {
	case *dir == "" && (*tokens != "" || authority.Dir != ""):
		return errors.New("--node-tokens and --ca-dir go with --manifests; on a cluster nodes show service account tokens and the keys are a Secret")
	case *dir == "":
		return runCluster(ctx, *kubeconfig, authority, objects, &cfg, listeners)
	case *kubeconfig != "":
		return errors.New("--manifests and --kubeconfig: objects come from one place only")
	case *tokens == "" || authority.Dir == "":
		return errors.New("--manifests needs --node-tokens and --ca-dir")
	}
	return runDirectory(ctx, *dir, *tokens, authority, objects, &cfg, listeners)
}

// runDirectory runs control without Kubernetes.
func runDirectory(ctx context.Context, dir, tokens string, authority ca.Config, objects kube.Config, cfg *control.Config, listeners func() error) (err error) {
	objects.ImplicitNamespaces = true
	source := manifests.New(dir, objects, cfg.Log)
	// Of all who read the directory one tells its authors what was refused.
	source.PublishConditions(&manifests.Publisher{Dir: dir})
	cfg.Prover, cfg.Objects, cfg.Publisher = ca.NewTokenDir(tokens, cfg.Log), source, &control.Directory{Dir: dir}
	if cfg.Authority, err = ca.Open(authority); err != nil {
		return err
	}
	if err := listeners(); err != nil {
		return err
	}
	return control.Run(ctx, *cfg)
}

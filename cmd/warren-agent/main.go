// SPDX-License-Identifier: Apache-2.0

// Command warren-agent decides which of its node's pods are captured. See package agent.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/warren-mesh/warren/agent"
	"github.com/warren-mesh/warren/cmd/internal/exit"
	"github.com/warren-mesh/warren/mesh/kube"
)

func main() { os.Exit(exit.Code(os.Stderr, "warren-agent", run(os.Args[1:]))) }

func run(args []string) error {
	if len(args) > 0 && args[0] == "remove-cni" {
		return removeCNI(args[1:])
	}
	fs := flag.NewFlagSet("warren-agent", flag.ContinueOnError)
	cfg := agent.Config{Level: new(slog.LevelVar), Version: version()}
	var objects kube.Config
	var excluded string
	var exceptions, clusterCIDRs string
	fs.StringVar(&cfg.Node, "node", "", "name of the Node object this agent runs on")
	dir := fs.String("manifests", "", "directory of Kubernetes YAML to read objects from, in place of the API server")
	kubeconfig := fs.String("kubeconfig", "", "kubeconfig file of the API server; without it, and without --manifests, the pod's service account")
	fs.StringVar(&cfg.RunDir, "run-dir", "/run/warren", "directory of the unix sockets shared with broker and ztunnel")
	fs.StringVar(&cfg.StateDir, "state-dir", "/var/lib/warren", "directory of what outlasts the agent, and that the CNI plugin reads")
	plugin := cniFlags(fs, &cfg)
	fs.StringVar(&objects.TrustDomain, "trust-domain", "cluster.local", "trust domain of the mesh's identities")
	fs.StringVar(&clusterCIDRs, "cluster-cidrs", "", "pod and service ranges beside those that Nodes, ServiceCIDRs and the MeshConfig name, comma-separated")
	fs.StringVar(&exceptions, "except", "", "destinations that are never captured, beside those that the MeshConfig names, comma-separated CIDRs")
	fs.StringVar(&excluded, "exclude-namespaces", "kube-system,warren-system", "namespaces whose pods are never captured")
	fs.StringVar(&cfg.DebugAddress, "debug-address", "localhost:15000", "debug endpoint")
	fs.StringVar(&cfg.MetricsAddress, "metrics-address", ":15020", "Prometheus endpoint, /metrics")
	fs.StringVar(&cfg.ReadyAddress, "ready-address", ":15021", "readiness endpoint, /healthz/ready")
	fs.DurationVar(&cfg.Drain, "drain", 25*time.Second, "how long an un-enrolled pod's live connections may last, unless the MeshConfig says")
	fs.TextVar(cfg.Level, "log-level", new(slog.LevelVar), "debug, info, warn or error")
	if err := fs.Parse(args); err != nil {
		return err
	}
	var err error
	if objects.ClusterCIDRs, err = prefixes("cluster-cidrs", clusterCIDRs); err != nil {
		return err
	}
	if objects.Exceptions, err = prefixes("except", exceptions); err != nil {
		return err
	}
	objects.Node, objects.ExcludedNamespaces = cfg.Node, split(excluded)
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: cfg.Level}))

	if err := plugin(split(excluded)); err != nil {
		return err
	}
	source, publisher, err := origin(*dir, *kubeconfig, cfg, objects)
	if err != nil {
		return err
	}
	a, err := agent.New(cfg, source, publisher)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	return a.Run(ctx)
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

func prefixes(flagName, list string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range split(list) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", flagName, err)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

func version() string {
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "devel"
}

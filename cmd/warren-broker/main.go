// SPDX-License-Identifier: Apache-2.0

// Command warren-broker makes every socket of its node's ztunnel and attaches the kernel programs. See package
// agent/broker.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/warren-mesh/warren/agent/broker"
	"github.com/warren-mesh/warren/cmd/internal/exit"
	wire "github.com/warren-mesh/warren/mesh/broker"
)

// removeWait is how long `warren-broker remove FLAGS`, which takes everything off a node, waits for a broker to end.
const removeWait = time.Minute

func main() { os.Exit(exit.Code(os.Stderr, "warren-broker", run(os.Args[1:]))) }

func run(args []string) error {
	remove := len(args) > 0 && args[0] == "remove"
	if remove {
		args = args[1:]
	}
	fs := flag.NewFlagSet("warren-broker", flag.ContinueOnError)
	var level slog.Level
	cfg := broker.Config{Files: map[string]string{}, ZtunnelUID: wire.ZtunnelUID, RunDirGID: wire.ZtunnelUID}
	fs.StringVar(&cfg.RunDir, "run-dir", "/run/warren", "directory of the unix sockets shared with agent and ztunnel")
	fs.StringVar(&cfg.StateDir, "state-dir", "", "directory of the desired captures (default RUN-DIR/broker)")
	fs.StringVar(&cfg.Proc, "proc", "/proc", "procfs of the host; a container's own has /proc/sys read-only, which capture writes to")
	fs.StringVar(&cfg.HostNetns, "host-netns", "", "the host's network namespace (default PROC/1/ns/net)")
	fs.StringVar(&cfg.CgroupRoot, "cgroup-root", "/sys/fs/cgroup", "where the cgroup2 hierarchy, or the node's part of it, is mounted")
	fs.StringVar(&cfg.BPFFS, "bpffs", "/sys/fs/bpf", "a mounted bpffs, this node's alone")
	fs.StringVar(&cfg.KubeletCgroup, "kubelet-cgroup", broker.KubeletAuto, "kubelet's own cgroup: its connections to pods are probes and not captured; auto finds it, empty is none")
	fs.DurationVar(&cfg.Drain, "drain", 25*time.Second, "how long an un-enrolled pod's live tunnels may last, unless the MeshConfig says")
	fs.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	fs.Func("file", "`NAME=PATH` of a file ztunnel may read (token, roots, crl; the last need not be there); repeatable", func(v string) error {
		name, path, ok := strings.Cut(v, "=")
		if !ok || name == "" || path == "" {
			return fmt.Errorf("want NAME=PATH")
		}
		cfg.Files[name] = path
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if remove {
		ctx, cancel := context.WithTimeout(ctx, removeWait)
		defer cancel()
		return broker.Remove(ctx, cfg)
	}
	return broker.Run(ctx, cfg)
}

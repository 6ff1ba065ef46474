// SPDX-License-Identifier: Apache-2.0

// Command warren-ztunnel is the L4 tunnel of one node. See package ztunnel.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/warren-mesh/warren/cmd/internal/exit"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/ztunnel"
	"github.com/warren-mesh/warren/ztunnel/accesslog"
	"github.com/warren-mesh/warren/ztunnel/inpod"
	"github.com/warren-mesh/warren/ztunnel/seal"
)

func main() { os.Exit(exit.Code(os.Stderr, "warren-ztunnel", run(os.Args[1:]))) }

func run(args []string) error {
	fs := flag.NewFlagSet("warren-ztunnel", flag.ContinueOnError)
	cfg := ztunnel.Config{Level: new(slog.LevelVar), Version: version(), Settings: map[string]string{}}
	fs.StringVar(&cfg.Node, "node", "", "name of the Node object this ztunnel serves")
	runDir := fs.String("run-dir", "/run/warren", "directory of the unix sockets shared with broker and agent; it is waited for")
	fs.TextVar(&cfg.CAService, "ca-service", mesh.Name{Namespace: "warren-system", Name: "warren-control"}, "namespace/name of the authority's Service")
	caPort := fs.Uint("ca-port", 15012, "the authority's port of that Service")
	fs.StringVar(&cfg.TrustDomain, "trust-domain", "cluster.local", "trust domain of the mesh's identities")
	fs.DurationVar(&cfg.Drain, "drain", 25*time.Second, "how long live connections may last after SIGTERM, or after their pod left the mesh, unless the MeshConfig says")
	admin := fs.String("admin-address", "localhost:15000", "pages for operators")
	metrics := fs.String("metrics-address", ":15020", "Prometheus endpoint, /metrics")
	ready := fs.String("ready-address", ":15021", "readiness endpoint, /healthz/ready")
	fs.TextVar(cfg.Level, "log-level", new(slog.LevelVar), "debug, info, warn or error")
	format := fs.String("log-format", "text", "text or json, of log and access log; of the latter unless the MeshConfig says")
	access := fs.String("access-log", "-", "file the access log is appended to; - is standard output")
	fs.BoolVar(&cfg.Sealed, "seal", true, "give up all privileges and system calls that are not needed after start-up")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if cfg.Node == "" || *caPort == 0 || *caPort > 65535 {
		return fmt.Errorf("--node and a --ca-port between 1 and 65535 are required")
	}
	if cfg.Sealed && cgo() {
		return errors.New("this binary was built with cgo, whose threads the seal would kill (build with CGO_ENABLED=0, or run with --seal=false)")
	}
	cfg.CAPort = uint16(*caPort)
	fs.VisitAll(func(f *flag.Flag) { cfg.Settings[f.Name] = f.Value.String() })
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()

	if err := openLogs(&cfg, *format, *access); err != nil {
		return err
	}
	for _, l := range []struct {
		to   *net.Listener
		flag string
		addr string
	}{{&cfg.Admin, "admin-address", *admin}, {&cfg.Metrics, "metrics-address", *metrics}, {&cfg.Ready, "ready-address", *ready}} {
		var err error
		if *l.to, err = net.Listen("tcp", l.addr); err != nil {
			return fmt.Errorf("--%s: %w", l.flag, err)
		}
	}
	generation := strconv.FormatInt(time.Now().UnixNano(), 36)
	b, err := listen(ctx, *runDir, generation, cfg.Log)
	if err != nil {
		return err
	}
	cfg.Broker = b
	cfg.Successor = successor(ctx, *runDir)
	if cfg.AdminSocket, err = broker.ListenStream(filepath.Join(*runDir, broker.SocketName("ztunnel", generation, "admin"))); err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	z, err := ztunnel.New(cfg)
	if err != nil {
		return err
	}
	cfg.Log.Info("starting", "version", cfg.Version, "settings", cfg.Settings)
	if cfg.Sealed {
		if err := seal.Seal(seal.Kill); err != nil {
			return fmt.Errorf("%w (--seal=false runs without)", err)
		}
	}
	return z.Run(ctx)
}

// openLogs opens what the process writes to for the rest of its life.
func openLogs(cfg *ztunnel.Config, format, path string) error {
	var sink io.Writer = os.Stdout
	if path != "-" {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
		if err != nil {
			return fmt.Errorf("--access-log: %w", err)
		}
		sink = f
	}
	options := &slog.HandlerOptions{Level: cfg.Level}
	switch format {
	case "text":
		cfg.AccessLog, cfg.Log = accesslog.New(sink, accesslog.Text), slog.New(slog.NewTextHandler(os.Stderr, options))
	case "json":
		cfg.AccessLog, cfg.Log = accesslog.New(sink, accesslog.JSON), slog.New(slog.NewJSONHandler(os.Stderr, options))
	default:
		return fmt.Errorf("--log-format %q: want text or json", format)
	}
	return nil
}

// listen makes the socket that brokers dial, as soon as their directory is there.
func listen(ctx context.Context, dir, gen string, log *slog.Logger) (*inpod.Broker, error) {
	for waited := false; ; waited = true {
		b, err := inpod.Listen(dir, gen, inpod.WithLogger(log))
		if err == nil || ctx.Err() != nil {
			return b, err
		}
		if !waited {
			log.Warn("waiting for the broker's directory", "dir", dir, "err", err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// successor reports whether another ztunnel runs on this node: as the new one of two, in an upgrade. To be asked before this
// process has an admin socket of its own.
func successor(ctx context.Context, dir string) bool {
	c, err := broker.DialNewest(ctx, dir, "ztunnel", "admin")
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// cgo reports whether threads come from the C library: it makes them by calls that Go's runtime never makes.
func cgo() bool {
	b, ok := debug.ReadBuildInfo()
	return ok && slices.ContainsFunc(b.Settings, func(s debug.BuildSetting) bool { return s.Key == "CGO_ENABLED" && s.Value == "1" })
}

func version() string {
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "devel"
}

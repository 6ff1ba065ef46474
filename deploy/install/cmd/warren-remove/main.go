// SPDX-License-Identifier: Apache-2.0

// Command warren-remove takes Warren off every node of its cluster, as the Job that `helm uninstall` runs first.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/warren-mesh/warren/deploy/install/removal"
)

// within bounds all of it; Helm gives up after five minutes.
const within = 4 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "warren-remove: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	cfg, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	cfg.QPS, cfg.Burst = 50, 100
	typed, err1 := kubernetes.NewForConfig(cfg)
	others, err2 := dynamic.NewForConfig(cfg)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	unseen, err := removal.Run(ctx, removal.Options{Client: typed, Dynamic: others, Progress: os.Stdout})
	if len(unseen) > 0 {
		fmt.Printf("not looked at: %s\n", strings.Join(unseen, ", "))
	}
	return err
}

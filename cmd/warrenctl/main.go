// SPDX-License-Identifier: Apache-2.0

// Command warrenctl shows what a node's part of the mesh knows and does, and explains what becomes of a connection.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/warren-mesh/warren/cmd/internal/ctl"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if ctl.New().ExecuteContext(ctx) != nil {
		return 1 // it has said why
	}
	return 0
}

// SPDX-License-Identifier: Apache-2.0

// Command warren-testcluster starts and ends a Kubernetes cluster on this machine for tests; package cluster says how.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/warren-mesh/warren/tests/cluster"
)

const usage = `usage: warren-testcluster [flags] COMMAND

  up                      start the cluster, or say that it runs; the first time it is compiled: 15 to 20 minutes of two cores
  down                    end it and remove everything of it, also what a crashed run left
  status                  machines, their services, and nodes
  load-image FILE         load an archive of images (docker save, OCI) into every node
  load-image REF BINARY   make an image of one static binary and load it
  shell [MACHINE [CMD]]   a shell with kubectl set up, or one on a machine: n1, n2, control
  kubectl ARGS            kubectl of the cluster's version, set up for it
  build                   only build what up needs
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("warren-testcluster", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage, "\nflags:\n")
		flags.PrintDefaults()
	}
	o := cluster.Options{Output: stdout, Reuse: true}
	flags.StringVar(&o.Name, "name", "warren", "name of the cluster; several can run side by side")
	flags.IntVar(&o.Nodes, "nodes", 2, "how many nodes up starts")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	command, rest := flags.Arg(0), flags.Args()[min(1, flags.NArg()):]
	err := dispatch(ctx, o, command, rest, stdin, stdout, stderr)
	var exit *exec.ExitError
	switch {
	case errors.Is(err, flag.ErrHelp):
		flags.Usage()
		return 2
	case errors.As(err, &exit) && (command == "shell" || command == "kubectl"): // it has said itself what was wrong
		return exit.ExitCode()
	case err != nil:
		fmt.Fprintf(stderr, "warren-testcluster: %v\n", err)
		return 1
	}
	return 0
}

func dispatch(ctx context.Context, o cluster.Options, command string, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	switch command {
	case "build":
		return cluster.Build(ctx, stdout)
	case "up":
		c, err := cluster.Up(ctx, o)
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "\nexport KUBECONFIG=%s\n", c.Kubeconfig())
		return nil
	case "down":
		return cluster.Sweep(o.Name)
	case "status", "load-image", "shell", "kubectl":
	default:
		return flag.ErrHelp
	}
	c, err := cluster.Open(o)
	if err != nil {
		return err
	}
	switch command {
	case "status":
		return c.Status(ctx, stdout)
	case "load-image":
		switch len(args) {
		case 1:
			return c.LoadArchive(ctx, args[0])
		case 2:
			return c.LoadImage(ctx, cluster.Binary(args[0], args[1]))
		}
		return flag.ErrHelp
	}
	cmd, err := interactive(ctx, c, command, args)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	return cmd.Run()
}

// interactive is the command that takes over the terminal; an interrupt typed there reaches it without help.
func interactive(ctx context.Context, c *cluster.Cluster, command string, args []string) (*exec.Cmd, error) {
	ctx = context.WithoutCancel(ctx)
	if command == "kubectl" {
		return c.Kubectl(ctx, args...), nil
	}
	if len(args) == 0 {
		return c.Shell(ctx)
	}
	inside := args[1:]
	if len(inside) == 0 {
		inside = []string{"bash", "-i"}
	}
	cmd, err := c.NodeCommand(ctx, args[0], inside...)
	if err != nil {
		return nil, err
	}
	// The terminal's job control wants the shell in the foreground process group.
	cmd.SysProcAttr.Setpgid = false
	return cmd, nil
}

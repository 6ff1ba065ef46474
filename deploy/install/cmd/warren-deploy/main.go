// SPDX-License-Identifier: Apache-2.0

// Command warren-deploy builds Warren's image, and installs Warren on the cluster that kubectl would speak to, or removes it.
// Package install does the work; docs/operations/install.md tells how to use it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/warren-mesh/warren/deploy/install"
)

const usage = `usage: warren-deploy COMMAND [flags]

  image      compile Warren and make an image of it, without Docker
  push       the same, and push it to the registry its name tells
  render     write the chart as plain manifests into a directory
  install    install Warren on the cluster of KUBECONFIG or ~/.kube/config, or upgrade it
  uninstall  remove Warren from nodes and cluster
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	commands := map[string]func(context.Context, *flag.FlagSet, []string, io.Writer) error{
		"image": image, "push": push, "render": render, "install": installCommand, "uninstall": uninstall,
	}
	if len(args) == 0 || commands[args[0]] == nil {
		fmt.Fprint(stderr, usage)
		return 2
	}
	fs := flag.NewFlagSet("warren-deploy "+args[0], flag.ContinueOnError)
	fs.SetOutput(stderr)
	err := commands[args[0]](ctx, fs, args[1:], stdout)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return 2
	}
	fmt.Fprintf(stderr, "warren-deploy: %v\n", err)
	return 1
}

func image(ctx context.Context, fs *flag.FlagSet, args []string, stdout io.Writer) error {
	o := install.BuildOptions{Progress: stdout}
	buildFlags(fs, &o)
	if err := fs.Parse(args); err != nil {
		return err
	}
	_, err := install.BuildImage(ctx, o)
	return err
}

func buildFlags(fs *flag.FlagSet, o *install.BuildOptions) {
	fs.StringVar(&o.Ref, "image", "", "name of the image; without a tag it gets one made of its content (default "+install.DefaultRepository+")")
	fs.StringVar(&o.Arch, "arch", "", "amd64 or arm64 (default: this machine's)")
	fs.StringVar(&o.Output, "output", "", "archive to write (default: in the user's cache directory)")
}

func push(ctx context.Context, fs *flag.FlagSet, args []string, stdout io.Writer) error {
	o := install.BuildOptions{Progress: stdout}
	buildFlags(fs, &o)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if o.Ref == "" {
		return errors.New("push: --image is needed, with the registry's name")
	}
	var images []install.Image
	for _, arch := range strings.Split(o.Arch, ",") {
		each := o
		each.Arch = arch
		i, err := install.BuildImage(ctx, each)
		if err != nil {
			return err
		}
		images = append(images, i)
	}
	ref := o.Ref
	if len(images) == 1 {
		ref = images[0].Ref
	}
	pinned, err := install.Push(ctx, ref, images...)
	if err == nil {
		fmt.Fprintf(stdout, "pushed %s\n", pinned)
	}
	return err
}

func render(ctx context.Context, fs *flag.FlagSet, args []string, stdout io.Writer) error {
	dir := fs.String("output", "deploy/manifests", "directory to write to")
	image := fs.String("image", install.PlaceholderImage, "image to name")
	files := valuesFlag(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	values, err := files.read()
	if err != nil {
		return err
	}
	if values == nil {
		values = map[string]any{}
	}
	values["image"] = *image
	manifests, err := install.Render(ctx, "", values)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return err
	}
	for name, content := range manifests {
		if err := os.WriteFile(filepath.Join(*dir, name), content, 0o644); err != nil {
			return err
		}
	}
	fmt.Fprintf(stdout, "wrote %d manifests to %s\n", len(manifests), *dir)
	return nil
}

func installCommand(ctx context.Context, fs *flag.FlagSet, args []string, stdout io.Writer) error {
	o := install.Options{Progress: stdout}
	fs.StringVar(&o.Image, "image", "", "image that the nodes have or can pull (default: the installed one)")
	fs.DurationVar(&o.Timeout, "timeout", patience, "give up when nothing has gone forward for so long")
	files := valuesFlag(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	var err error
	if o.Values, err = files.read(); err != nil {
		return err
	}
	if o.Config, err = kubeconfig(); err != nil {
		return err
	}
	return install.Install(ctx, o)
}

func uninstall(ctx context.Context, fs *flag.FlagSet, args []string, stdout io.Writer) (err error) {
	o := install.Options{Progress: stdout}
	fs.DurationVar(&o.Timeout, "timeout", patience, "for all of it")
	fs.BoolVar(&o.SkipNotReady, "skip-not-ready", false, "leave nodes that are not ready as they are, instead of refusing")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if o.Config, err = kubeconfig(); err != nil {
		return err
	}
	return install.Uninstall(ctx, o)
}

// patience is the timeout of who names none.
const patience = 5 * time.Minute

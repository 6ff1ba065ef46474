// SPDX-License-Identifier: Apache-2.0

// Command warren-demo is the demo on a real cluster: one that it starts on this machine, or the user's own.
//
//	warren-demo [flags] up      run the demo and leave it up
//	warren-demo [flags] down    remove it
//	warren-demo [flags] push    build the sample shop's image and push it to the registry that --shop-image names
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/warren-mesh/warren/tests/cluster"
	"github.com/warren-mesh/warren/tests/e2e/demo"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "warren-demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o := demo.Options{Out: os.Stdout}
	fs := flag.NewFlagSet("warren-demo", flag.ContinueOnError)
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "the user's cluster, with Warren on it; without, one is started on this machine")
	fs.StringVar(&o.ShopImage, "shop-image", "", "image of the sample shop that the user's nodes have or can pull")
	fs.StringVar(&o.Source, "source", "", "a directory in a checkout of Warren; the working directory without")
	fs.StringVar(&o.Kubectl, "kubectl", "kubectl", "how to call kubectl, in commands that are printed")
	fs.StringVar(&o.Down, "down", "warren-demo down", "how to stop the demo, in what is printed")
	if err := fs.Parse(args); err != nil {
		return err
	}
	verbs := map[string]func(context.Context, demo.Options) error{"up": up, "down": down, "push": push}
	if fs.NArg() != 1 || verbs[fs.Arg(0)] == nil {
		return errors.New("want one of up, down, push")
	}
	return verbs[fs.Arg(0)](ctx, o)
}

// user is told of what goes wrong.
type user struct{ failed bool }

func (u *user) Errorf(format string, args ...any) {
	u.failed = true
	fmt.Fprintf(os.Stdout, format+"\n", args...)
}

// errFatal ends the demo from within.
type errFatal struct{ error }

func (u *user) Fatalf(format string, args ...any) { panic(errFatal{fmt.Errorf(format, args...)}) }

func up(ctx context.Context, o demo.Options) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case errFatal:
			err = r.error
		default:
			panic(r)
		}
	}()
	u := &user{}
	demo.Run(ctx, u, o)
	if u.failed {
		return errors.New("the demo showed what it should not; it is still up")
	}
	return nil
}

func down(ctx context.Context, o demo.Options) error {
	if err := demo.Down(ctx, o); err != nil {
		return err
	}
	fmt.Println("down; nothing is left of the demo")
	return nil
}

func push(ctx context.Context, o demo.Options) error {
	if o.ShopImage == "" {
		return errors.New("push wants --shop-image")
	}
	return demo.WithShop(ctx, o.Source, o.ShopImage, func(i cluster.Image) error { return i.Push(ctx) })
}

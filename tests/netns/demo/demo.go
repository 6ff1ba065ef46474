// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"io"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/warren-mesh/warren/deploy/samples"
	"github.com/warren-mesh/warren/tests/demo"
	"github.com/warren-mesh/warren/tests/netns"
)

// Options of a demo.
type Options struct {
	Out io.Writer // progress and report
	// Bin is the directory of the built binaries; shop and warren-netns lie there too.
	Bin string
	// Command is how the user calls warren-netns, for the commands that are printed.
	Command string
	// Down is how the user stops the demo.
	Down string
	// Made is called with the mesh before anything runs on it, when it is not nil.
	Made func(*netns.Mesh)
}

// Run builds the mesh, runs the shop through its parts, and prints the report. The mesh is the caller's from then on.
// Whatever is not as it should be fails t, and so does the end of ctx.
func Run(ctx context.Context, t netns.T, o Options) *netns.Mesh {
	d := demo.New(ctx, t, o.Out)
	b := build(ctx, t, o, d)
	d.Run(b)
	b.keepBuying(t)
	return b.mesh
}

// build makes two nodes with the shop on them, and starts Warren, which has nothing to capture yet.
func build(ctx context.Context, t netns.T, o Options, d *demo.Demo) *bed {
	d.Say("two nodes with pods as network namespaces, Warren's processes on each (about two seconds)")
	b := &bed{mesh: netns.New(t, netns.Options{ReadyWithin: 30 * time.Second}), program: filepath.Join(o.Bin, "shop")}
	if o.Made != nil {
		o.Made(b.mesh)
	}
	if err := b.mesh.Load(samples.Shop, b.container); err != nil {
		t.Fatalf("start the shop: %v", err)
	}
	shopper := b.mesh.Find("shop/shopper")
	b.mesh.Up()
	for _, service := range []string{"web:80", "cart:80", "inventory:80", "orders:7000"} {
		d.Await("an answer of "+service, func() bool {
			c, err := shopper.Dial(ctx, "tcp", service)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
	}
	d.Say("the shop runs, outside the mesh so far")
	return b
}

// container lets a container's command find the program where it was built.
func (b *bed) container(cmd *exec.Cmd) {
	if cmd.Args[0] == "shop" {
		cmd.Path, cmd.Err = b.program, nil
	}
}

// keepBuying leaves a customer in the shop, one purchase a second, so that there is something to look at.
func (b *bed) keepBuying(t netns.T) {
	cmd := exec.Command(b.program, "buy", "-card", demo.ShopperCard, "-every", "1s", demo.ShopURL)
	if err := b.mesh.Find("shop/shopper").Start(cmd); err != nil {
		t.Fatalf("start the customer: %v", err)
	}
	go func() { _ = cmd.Wait() }()
}

// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/warren-mesh/warren/deploy/samples"
	"github.com/warren-mesh/warren/tests/netns"
)

const (
	shopNamespace = "shop"
	shopURL       = "http://web.shop/buy"
	// What would have to stay secret; each customer has its own, so that it is known whose was read.
	shopperCard = "4929-1234-5678-9012"
	legacyCard  = "5500-0000-0000-0004"
	purchases   = 3 // by the shopper in each part; legacy buys once
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

// demo is one run.
type demo struct {
	Options
	t    netns.T
	ctx  context.Context
	mesh *netns.Mesh

	shopper, legacy *netns.Pod
	began           time.Time
}

// Run builds the mesh, runs the shop through its parts, and prints the report. The mesh is the caller's from then on.
// Whatever is not as it should be fails t, and so does the end of ctx.
func Run(ctx context.Context, t netns.T, o Options) *netns.Mesh {
	d := &demo{Options: o, t: t, ctx: ctx, began: time.Now()}
	d.build()
	r := &report{out: o.Out}
	r.legend(d.mesh)
	d.before(r)
	d.captured(r)
	d.strict(r)
	if failures := r.failures; len(failures) > 0 {
		fmt.Fprintln(o.Out)
		for _, f := range failures {
			t.Errorf("NOT AS IT SHOULD BE: %s", f)
		}
		return d.mesh
	}
	fmt.Fprintf(o.Out, "\nAll %d checks of what was read hold.\n", r.checks)
	d.keepBuying()
	return d.mesh
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.Out, "%6.1fs  %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

// build makes two nodes with the shop on them, and starts Warren, which has nothing to capture yet.
func (d *demo) build() {
	d.say("two nodes with pods as network namespaces, Warren's processes on each (about two seconds)")
	d.mesh = netns.New(d.t, netns.Options{ReadyWithin: 30 * time.Second})
	if d.Made != nil {
		d.Made(d.mesh)
	}
	if err := d.mesh.Load(samples.Shop, d.container); err != nil {
		d.t.Fatalf("start the shop: %v", err)
	}
	d.shopper, d.legacy = d.mesh.Find("shop/shopper"), d.mesh.Find("default/legacy")
	d.mesh.Up()
	for _, service := range []string{"web:80", "cart:80", "inventory:80", "orders:7000"} {
		d.await("an answer of "+service, func() bool {
			c, err := d.shopper.Dial(d.ctx, "tcp", service)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
	}
	d.say("the shop runs, outside the mesh so far")
}

// container lets a container's command find the program where it was built.
func (d *demo) container(cmd *exec.Cmd) {
	if cmd.Args[0] == "shop" {
		cmd.Path, cmd.Err = filepath.Join(d.Bin, "shop"), nil
	}
}

// before is the shop without the mesh.
func (d *demo) before(r *report) {
	d.say("part 1: purchases before the shop is in the mesh")
	p := d.begin()
	d.purchases(true)
	p.end(nil)
	r.section("1. Before: the namespace shop is not in the mesh")
	r.statuses(d.mesh)
	r.wire(p)
	r.log(p)
	r.check("the packets between the nodes hold the shopper's card number in plaintext", p.carries(shopperCard) > 0)
	r.check("no packet between pods of the shop is a tunnel's", p.tunnels() == 0)
	r.check("ztunnel logged nothing", len(p.entries) == 0)
}

// captured is the shop in the mesh, with the client outside still let in.
func (d *demo) captured(r *report) {
	d.say("part 2: the namespace is annotated, warren.dev/mesh: enabled, while the shop runs")
	d.mesh.Apply(samples.Enrol)
	d.eachPod(func(p *netns.Pod) { d.mesh.WaitCaptured(p, "true") })
	d.await("both ztunnels to know that the shop is captured", func() bool { return d.known(captures) })
	p := d.begin()
	d.purchases(true)
	p.end(inTheMesh(true))
	r.section("2. In the mesh, PERMISSIVE: the pods of shop are captured; the client outside is still let in")
	r.statuses(d.mesh)
	r.whole(p)
	checkMesh(r, p, true)
}

// strict is the shop that takes mutual TLS only.
func (d *demo) strict(r *report) {
	d.say("part 3: a PeerAuthentication says STRICT")
	d.mesh.Apply(samples.Strict)
	d.await("both ztunnels to know the policy", func() bool { return d.known(strictly) })
	p := d.begin()
	d.purchases(false)
	p.end(inTheMesh(false))
	r.section("3. STRICT: mutual TLS only; the client outside is refused")
	r.whole(p)
	checkMesh(r, p, false)
}

// keepBuying leaves a customer in the shop, one purchase a second, so that there is something to look at.
func (d *demo) keepBuying() {
	cmd := exec.Command(filepath.Join(d.Bin, "shop"), "buy", "-card", shopperCard, "-every", "1s", shopURL)
	if err := d.shopper.Start(cmd); err != nil {
		d.t.Fatalf("start the customer: %v", err)
	}
	go func() { _ = cmd.Wait() }()
}

func (d *demo) eachPod(f func(*netns.Pod)) {
	for _, p := range d.mesh.Pods() {
		if p.Namespace == shopNamespace {
			f(p)
		}
	}
}

// await polls until done, and fails the demo after 30 s or when ctx ends.
func (d *demo) await(what string, done func() bool) {
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if d.ctx.Err() != nil {
			d.t.Fatalf("interrupted")
		}
		if time.Now().After(end) {
			d.t.Fatalf("after 30 s still waiting for %s", what)
		}
	}
}

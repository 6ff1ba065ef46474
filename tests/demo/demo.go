// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/warren-mesh/warren/deploy/samples"
)

const (
	// ShopNamespace is where the shop runs.
	ShopNamespace = "shop"
	// ShopURL is where its customers buy.
	ShopURL = "http://web.shop/buy"
	// What would have to stay secret; each customer has its own, so that it is known whose was read.
	ShopperCard = "4929-1234-5678-9012"
	LegacyCard  = "5500-0000-0000-0004"

	purchases = 3 // by the shopper in each part; legacy buys once
)

// Demo is one run. Its methods are for one goroutine.
type Demo struct {
	Bed
	t     T
	ctx   context.Context
	out   io.Writer
	began time.Time
}

// New begins a run: times that are printed count from now.
func New(ctx context.Context, t T, out io.Writer) *Demo {
	return &Demo{t: t, ctx: ctx, out: out, began: time.Now()}
}

// Run takes the shop through its parts and prints the report. Whatever is not as it should be fails T, and so does the end
// of the context.
func (d *Demo) Run(b Bed) {
	d.Bed = b
	r := &report{out: d.out, bed: b}
	r.legend()
	d.before(r)
	d.captured(r)
	d.strict(r)
	if len(r.failures) > 0 {
		fmt.Fprintln(d.out)
		for _, f := range r.failures {
			d.t.Errorf("NOT AS IT SHOULD BE: %s", f)
		}
		return
	}
	fmt.Fprintf(d.out, "\nAll %d checks of what was read hold.\n", r.checks)
}

// Say prints progress, with the time since the beginning.
func (d *Demo) Say(format string, args ...any) {
	fmt.Fprintf(d.out, "%6.1fs  %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

// before is the shop without the mesh.
func (d *Demo) before(r *report) {
	d.Say("part 1: purchases before the shop is in the mesh")
	p := d.begin()
	d.purchases(true)
	p.end(nil)
	r.section("1. Before: the namespace shop is not in the mesh")
	r.statuses(d)
	r.wire(p)
	r.log(p)
	if p.seen {
		r.check("the packets between the nodes hold the shopper's card number in plaintext", p.carries(ShopperCard) > 0)
		r.check("no packet between pods of the shop is a tunnel's", p.tunnels() == 0)
	}
	r.check("ztunnel logged nothing of the shop", len(p.entries) == 0)
}

// captured is the shop in the mesh, with the client outside still let in.
func (d *Demo) captured(r *report) {
	d.Say("part 2: the namespace is annotated, warren.dev/mesh: enabled, while the shop runs")
	d.apply(samples.Enrol)
	d.Await("the shop's pods to be captured", func() bool { return d.allCaptured() })
	d.Await("the ztunnels to know that the shop is captured", func() bool { return d.known(captures) })
	p := d.begin()
	d.purchases(true)
	p.end(inTheMesh(true))
	r.section("2. In the mesh, PERMISSIVE: the pods of shop are captured; the client outside is still let in")
	r.statuses(d)
	r.whole(p)
	checkMesh(r, p, true)
}

// strict is the shop that takes mutual TLS only.
func (d *Demo) strict(r *report) {
	d.Say("part 3: a PeerAuthentication says STRICT")
	d.apply(samples.Strict)
	d.Await("the ztunnels to know the policy", func() bool { return d.known(strictly) })
	p := d.begin()
	d.purchases(false)
	p.end(inTheMesh(false))
	r.section("3. STRICT: mutual TLS only; the client outside is refused")
	r.whole(p)
	checkMesh(r, p, false)
}

func (d *Demo) apply(yaml string) {
	if err := d.Apply(d.ctx, yaml); err != nil {
		d.t.Fatalf("%v", err)
	}
}

func (d *Demo) allCaptured() bool {
	for _, p := range d.Pods() {
		if p.Namespace != ShopNamespace {
			continue
		}
		if word, err := d.Published(d.ctx, p); err != nil || word != "true" {
			return false
		}
	}
	return true
}

// Await polls until done, and fails the demo after 30 s or when its context ends.
func (d *Demo) Await(what string, done func() bool) {
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if d.ctx.Err() != nil {
			d.t.Fatalf("interrupted")
		}
		if time.Now().After(end) {
			d.t.Fatalf("after 30 s still waiting for %s", what)
		}
	}
}

// Print prints commands, each below what it is for.
func Print(out io.Writer, looks []Look) {
	fmt.Fprint(out, "\nIt stays up; a customer goes on buying, once a second. Look further:\n\n")
	for _, l := range looks {
		fmt.Fprintf(out, "  # %s\n  %s\n", l.What, l.Command)
	}
}

// PrintStop prints how to stop it.
func PrintStop(out io.Writer, command string) {
	fmt.Fprintf(out, "\nStop it with:\n\n  %s\n", command)
}

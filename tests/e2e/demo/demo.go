// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/deploy/install"
	"github.com/warren-mesh/warren/deploy/samples"
	"github.com/warren-mesh/warren/tests/cluster"
	"github.com/warren-mesh/warren/tests/demo"
	"github.com/warren-mesh/warren/tests/packets"
)

// Name is of the test cluster that the demo starts.
const Name = "demo"

// Options of a demo.
type Options struct {
	Out io.Writer // progress and report
	// Kubeconfig is the user's cluster, with Warren on it; "" starts one on this machine, and installs Warren there.
	Kubeconfig string
	// ShopImage is what the user's nodes have, or can pull. Without Kubeconfig the image is made here.
	ShopImage string
	// Source is a directory in a checkout of Warren. Default: the working directory.
	Source string
	// Kubectl and Down are how the user calls kubectl, and stops the demo, for the commands that are printed.
	Kubectl, Down string
}

// Run runs the demo and leaves it up. Whatever is not as it should be fails t.
func Run(ctx context.Context, t demo.T, o Options) {
	d := demo.New(ctx, t, o.Out)
	api, capture, err := o.cluster(ctx, d)
	if err == nil {
		err = o.story(ctx, d, api, capture)
	}
	if err != nil {
		t.Fatalf("%v", err)
	}
}

func (o *Options) story(ctx context.Context, d *demo.Demo, api *cluster.API, capture func() *packets.Capture) error {
	if err := o.startShop(ctx, d, api); err != nil {
		return err
	}
	b, err := newBed(ctx, api, capture)
	if err != nil {
		return err
	}
	d.Say("the shop runs, outside the mesh so far")
	d.Run(b)
	if err := api.Apply(ctx, customer(o.ShopImage, demo.ShopperCard, demo.ShopURL)); err != nil {
		return err
	}
	demo.Print(o.Out, o.further(b))
	demo.PrintStop(o.Out, o.Down)
	return nil
}

// cluster finds the user's, or starts one.
func (o *Options) cluster(ctx context.Context, d *demo.Demo) (*cluster.API, func() *packets.Capture, error) {
	if o.Kubeconfig != "" {
		if o.ShopImage == "" {
			return nil, nil, errors.New("a cluster of your own needs an image of the sample shop that its nodes can pull (make push-shop SHOP_IMAGE=registry.example.com/shop:1)")
		}
		api, err := cluster.Connect(o.Kubeconfig)
		return api, nil, err
	}
	d.Say("a Kubernetes of two nodes on this machine (ten seconds; the first time it is compiled, 15 to 20 minutes)")
	c, err := cluster.Up(ctx, cluster.Options{Name: Name, Output: o.Out})
	if err != nil {
		return nil, nil, err
	}
	d.Say("Warren's image and the shop's")
	image, err := install.BuildImage(ctx, install.BuildOptions{Source: o.Source, Progress: o.Out})
	if err != nil {
		return nil, nil, err
	}
	if err := c.LoadArchive(ctx, image.Archive); err != nil {
		return nil, nil, err
	}
	o.ShopImage = "warren.dev/shop:demo"
	if err := WithShop(ctx, o.Source, o.ShopImage, func(i cluster.Image) error { return c.LoadImage(ctx, i) }); err != nil {
		return nil, nil, err
	}
	d.Say("Warren, by its chart")
	if err := install.Install(ctx, install.Options{Config: c.Config(), Image: image.Ref, Source: o.Source, Progress: o.Out}); err != nil {
		return nil, nil, err
	}
	return c.API, func() *packets.Capture { return between(c) }, nil
}

// between captures what goes between the nodes: it all passes the control plane's machine.
func between(c *cluster.Cluster) *packets.Capture {
	pid, err := c.PID("control")
	if err != nil {
		return nil
	}
	p, err := packets.In(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil
	}
	return p
}

// WithShop builds the sample shop's image and hands it on; its files last as long as that takes. source is a directory in a
// checkout of Warren.
func WithShop(ctx context.Context, source, ref string, use func(cluster.Image) error) error {
	dir, err := os.MkdirTemp("", "warren-shop-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "shop")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "github.com/warren-mesh/warren/deploy/samples/shop")
	cmd.Dir, cmd.Env = source, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the sample shop: %w: %s", err, out)
	}
	return use(cluster.Image{Ref: ref, Files: map[string]string{"/usr/local/bin/shop": program}, Entrypoint: []string{"/usr/local/bin/shop"}, User: "65532:65532"})
}

// Open makes the shop as Run leaves it: in the mesh, STRICT, with a customer who buys once a second.
func Open(ctx context.Context, api *cluster.API, image string) error {
	if err := build(ctx, api, image); err != nil {
		return err
	}
	return api.Apply(ctx, strings.Join([]string{samples.Enrol, samples.Strict, customer(image, demo.ShopperCard, demo.ShopURL)}, "\n---\n"))
}

// startShop makes the shop and waits until it sells.
func (o *Options) startShop(ctx context.Context, d *demo.Demo, api *cluster.API) error {
	d.Say("the shop")
	if err := build(ctx, api, o.ShopImage); err != nil {
		return err
	}
	return o.answers(ctx, d, api)
}

// build makes the shop's objects and waits until its pods are ready.
func build(ctx context.Context, api *cluster.API, image string) error {
	nodes, err := workers(ctx, api)
	if err != nil {
		return err
	}
	objects, err := shopObjects(nodes, image)
	if err != nil {
		return err
	}
	if err := api.Apply(ctx, objects); err != nil {
		return err
	}
	for _, p := range []struct{ namespace, name string }{{"shop", "web"}, {"shop", "cart"}, {"shop", "inventory"}, {"shop", "orders"}, {"shop", "shopper"}, {"default", "legacy"}} {
		if err := api.Wait(ctx, p.namespace, "pods/"+p.name, cluster.Condition("Ready")); err != nil {
			return err
		}
	}
	return nil
}

// answers waits until the shop sells: a Service is not there the moment its pods are.
func (o *Options) answers(ctx context.Context, d *demo.Demo, api *cluster.API) error {
	d.Await("the shop to sell", func() bool {
		_, _, err := api.Exec(ctx, "shop", "shopper", "", "shop", "buy", "--card", "0", demo.ShopURL)
		return err == nil
	})
	return ctx.Err()
}

// workers are two nodes that pods of the shop may run on, or the only one.
func workers(ctx context.Context, api *cluster.API) ([]string, error) {
	list, err := api.Client().CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var out []string
	for _, n := range list.Items {
		ready := slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
		if ready && !n.Spec.Unschedulable && !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Effect != corev1.TaintEffectPreferNoSchedule }) {
			out = append(out, n.Name)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no node is ready and takes ordinary pods")
	}
	slices.Sort(out)
	return out[:min(2, len(out))], nil
}

// Down removes the demo: the cluster that it started, or from the user's what it made there. Warren stays on the user's.
func Down(ctx context.Context, o Options) error {
	if o.Kubeconfig == "" {
		return cluster.Sweep(Name)
	}
	api, err := cluster.Connect(o.Kubeconfig)
	if err != nil {
		return err
	}
	const made = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: legacy, namespace: default}\n"
	if err := api.Delete(ctx, made); err != nil {
		return err
	}
	return errors.Join(api.Wait(ctx, "", "namespaces/shop", cluster.Gone()), api.Wait(ctx, "default", "pods/legacy", cluster.Gone()))
}

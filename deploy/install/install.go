// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	// Release is the Helm release's name.
	Release = "warren"
	// Namespace is Warren's own; the programs know no other.
	Namespace = "warren-system"
)

// Options of an installation or its end.
type Options struct {
	// Config is whom to ask. Required.
	Config *rest.Config
	// Image is what the nodes run; they have it, or can pull it. Required by Install.
	Image string
	// Values go over those of the chart's values.yaml, and nothing else does. Nil keeps those of the installed release; empty
	// drops them.
	Values map[string]any
	// Source is a directory in a checkout of Warren, whose chart is taken. Default: the working directory.
	Source string
	// Timeout is how long Install bears that nothing goes forward: a rollout takes as long as the cluster has nodes. Uninstall
	// it bounds as a whole. Default 5 minutes.
	Timeout time.Duration
	// Progress gets a line whenever what is waited for changes; nil is silence.
	Progress io.Writer
	// SkipNotReady has Uninstall leave nodes as they are that are not ready, instead of refusing to begin.
	SkipNotReady bool
}

func (o Options) withDefaults() (Options, error) {
	if o.Config == nil {
		return o, errors.New("no cluster is named")
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Minute
	}
	return o, nil
}

// clients of one cluster.
type clients struct {
	typed   kubernetes.Interface
	dynamic dynamic.Interface
}

func connect(cfg *rest.Config) (clients, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.Burst = 50, 100
	t, err1 := kubernetes.NewForConfig(cfg)
	d, err2 := dynamic.NewForConfig(cfg)
	return clients{t, d}, errors.Join(err1, err2)
}

// Install installs Warren, or brings an installation to this chart, image and these values. It returns when every part is
// ready on every node that is; when nothing goes forward any more the error says what is missing and why. Values that
// would change the trust domain of an installation without naming it are refused, before anything is changed.
func Install(ctx context.Context, o Options) error {
	if err := install(ctx, o); err != nil {
		return fmt.Errorf("install Warren: %w", err)
	}
	return nil
}

func install(ctx context.Context, o Options) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	s, err := findSource(ctx, o.Source)
	if err != nil {
		return err
	}
	ch, err := loadChart(s)
	if err != nil {
		return err
	}
	c, err := connect(o.Config)
	if err != nil {
		return err
	}
	if err := bring(ctx, o, c, ch); err != nil {
		return err
	}
	away, err := waitReady(ctx, c.typed, o.Timeout, o.Progress)
	if err != nil {
		return err
	}
	if len(away) > 0 {
		progress(o.Progress, "every part is ready on every node that is; not on %s", strings.Join(away, ", "))
		return nil
	}
	progress(o.Progress, "every part is ready")
	return nil
}

// bring brings namespace, definitions and release to the chart; what comes of it is another matter.
func bring(ctx context.Context, o Options, c clients, ch *chart.Chart) error {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	h, err := helm(o.Config)
	if err != nil {
		return err
	}
	was, err := installed(h)
	if err != nil {
		return err
	}
	values := overlay(o.Values, o.Image, was)
	if err := checkTrustDomain(was, ch, values); err != nil {
		return err
	}
	if said := fate(o.Values, was); said != "" {
		progress(o.Progress, "%s", said)
	}
	if err := errors.Join(applyNamespace(ctx, c.typed), applyCRDs(ctx, c.dynamic, ch)); err != nil {
		return err
	}
	if err := apply(ctx, h, ch, o, was, values); err != nil {
		return err
	}
	progress(o.Progress, "applied chart %s %s with image %v", ch.Name(), ch.Metadata.Version, values["image"])
	return nil
}

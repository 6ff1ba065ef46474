// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"io"
	"time"

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
	// Values go over those of the chart's values.yaml.
	Values map[string]any
	// Timeout bounds all of it. Default 5 minutes.
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

// Install installs Warren, or brings an installation to this chart, image and these values. It returns when every
// part is ready on every node; when that takes longer than the timeout the error says what is missing and why.
func Install(ctx context.Context, o Options) error { return errors.New("not written yet") }

// Uninstall removes Warren from nodes and cluster. Captured pods go on, in plaintext, without a restart. A cluster
// without Warren is no error. While a node is not ready it refuses before it changes anything, and names the node.
func Uninstall(ctx context.Context, o Options) error { return errors.New("not written yet") }

// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"io"
	"regexp"
)

// Options of a cluster; the zero value is a good one.
type Options struct {
	Name   string    // of the cluster, default "warren"; two clusters with different names can run side by side
	Nodes  int       // default 2, at most 9
	Output io.Writer // gets a line for each stage with its time; default: silence
	Reuse  bool      // take a running cluster of this name instead of starting afresh
}

func (o Options) withDefaults() Options {
	if o.Name == "" {
		o.Name = "warren"
	}
	if o.Nodes == 0 {
		o.Nodes = 2
	}
	return o
}

var clusterName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?$`)

func (o Options) validate() error {
	var err error
	if !clusterName.MatchString(o.Name) {
		err = fmt.Errorf("name %q (want at most 22 of a-z, 0-9 and -)", o.Name)
	}
	if o.Nodes < 1 || o.Nodes > 9 {
		err = errors.Join(err, fmt.Errorf("%d nodes (want 1 to 9)", o.Nodes))
	}
	return err
}

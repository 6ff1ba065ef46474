// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/warren-mesh/warren/tests/netns"
)

// Names of the variants.
const (
	warren       = "warren"        // as installed: with metrics and access log
	warrenBare   = "warren-bare"   // what can be turned off is off; metrics can't be
	warrenTen    = "warren-10"     // with policies
	warrenMany   = "warren-10000"  // with very many
	warrenTraced = "warren-traced" // with a span for each end of each connection
	warrenBefore = "warren-before" // as installed, of other binaries
)

const (
	inside  = "inside"  // the namespace in the mesh
	outside = "outside" // the one that is not

	collectorPort = 4317
	// settled bounds an installation's start: 10,000 policies are read on one busy core.
	settled = 2 * time.Minute
	// logged is in the access log's line of a connection.
	logged = "connection complete"
)

// variant is Warren with something on or off. Each has a mesh of its own, all the time: what one's objects cost is
// in no other's figures.
type variant struct {
	name     string
	log      bool // a line for each connection
	policies int  // all of them select the server
	spans    bool // for all connections, sent to a collector
}

var variants = []variant{
	{name: warrenBare},
	{name: warren, log: true},
	{name: warrenTen, log: true, policies: 10},
	{name: warrenMany, log: true, policies: 10000},
	{name: warrenTraced, log: true, spans: true},
	{name: warrenBefore, log: true},
}

func variantIndex(name string) int {
	return slices.IndexFunc(variants, func(v variant) bool { return v.name == name })
}

// installation is a variant's mesh.
type installation struct {
	variant
	mesh      *netns.Mesh
	collector *worker // nil without spans
}

// install makes the mesh and its objects; nothing of Warren runs yet.
func (b *bed) install(ctx context.Context, s settings, v variant) (*installation, error) {
	o := netns.Options{ReadyWithin: settled, Unsealed: s.profile != ""} // a sealed ztunnel takes no profiles
	if v.name == warrenBefore {
		o.Binaries = s.before
	}
	in := &installation{variant: v, mesh: netns.New(b, o)}
	in.mesh.Namespace(inside, netns.Enrolled())
	spec := `{accessLog: {mode: "Off"}}` // bare, YAML takes it for false
	if v.log {
		spec = "{}"
	}
	if v.spans {
		pod := in.mesh.Node("b").Pod("collector", netns.In(outside))
		var err error
		if in.collector, err = startWorker(ctx, pod, roleCollect, fmt.Sprintf(":%d", collectorPort)); err != nil {
			return nil, err
		}
		spec = fmt.Sprintf("{tracing: {samplePercent: 100, otlp: {endpoint: %q}}}", pod.Addr("tcp4", collectorPort))
	}
	in.mesh.Apply("apiVersion: warren.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec: " + spec + "\n")
	if v.policies == 0 {
		return in, nil
	}
	return in, os.WriteFile(filepath.Join(in.mesh.Manifests(), "policies.yaml"), []byte(policies(v.policies)), 0o644)
}

// check wants what the variant is to be measured with to be in force.
func (in *installation) check() error {
	for _, n := range in.mesh.Nodes() {
		body, status, err := n.System.Ztunnel.Pod.Get("http://localhost:15000/config_dump")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d: %s", status, body)
		}
		var dump struct{ Policies []json.RawMessage }
		if err == nil {
			err = json.Unmarshal([]byte(body), &dump)
		}
		if err == nil && len(dump.Policies) != in.policies {
			err = fmt.Errorf("it has %d policies, want %d", len(dump.Policies), in.policies)
		}
		if err != nil {
			return fmt.Errorf("%s: ask ztunnel on node %s: %w", in.name, n.Name, err)
		}
	}
	return nil
}

// checkTraces wants what was on to have left its traces, and what was off none: else the figures are of something else.
func (in *installation) checkTraces() error {
	var errs []error
	if got := strings.Contains(in.mesh.Node("a").System.Ztunnel.Output(), logged); got != in.log {
		errs = append(errs, fmt.Errorf("%s: lines in the access log: %v, want %v", in.name, got, in.log))
	}
	if in.collector == nil {
		return errors.Join(errs...)
	}
	if err := in.awaitSpans(); err != nil {
		errs = append(errs, fmt.Errorf("%s: %w", in.name, err))
	}
	return errors.Join(errs...)
}

// awaitSpans wants the collector to have some; ztunnel sends them once it has gathered a few.
func (in *installation) awaitSpans() error {
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		got, err := in.collector.proceed()
		if err != nil || got.Operations > 0 {
			return err
		}
		if time.Now().After(end) {
			return errors.New("the collector received no span")
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/ready"
)

// storeOnly is a source of which only the store matters.
type storeOnly struct {
	Source
	store *mesh.Store
}

func (s storeOnly) Store() *mesh.Store { return s.store }

func TestNothingIsSaidBeforeTheClustersRangesAreKnown(t *testing.T) {
	a := &Agent{
		cfg:    Config{Log: slog.New(slog.DiscardHandler)},
		source: storeOnly{store: mesh.NewStore()},
		ready:  ready.New(taskRanges),
	}
	passed := make(chan error, 1)
	go func() { passed <- a.waitForRanges(t.Context()) }()
	a.source.Store().Apply(mesh.PutConfig{Config: &mesh.Config{TrustDomain: "example.org"}})
	select {
	case err := <-passed:
		t.Fatalf("went on without ranges: %v", err)
	default:
	}
	if p := a.ready.Pending(); !slices.Equal(p, []string{taskRanges}) {
		t.Fatalf("pending %v, want %s", p, taskRanges)
	}
	a.source.Store().Apply(mesh.PutConfig{Config: &mesh.Config{ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}})
	if err := <-passed; err != nil {
		t.Fatal(err)
	}
	if p := a.ready.Pending(); len(p) > 0 {
		t.Errorf("still pending: %v", p)
	}
}

// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"

	"github.com/warren-mesh/warren/tests/testutil"
)

// TestRemovePinsLeavesNoTrace: no process holds anything, as after the broker's end; the pod's connections go direct.
func TestRemovePinsLeavesNoTrace(t *testing.T) {
	n := newNode(t)
	p, peer := n.newPod().capture(), n.newPod()
	far := peer.listen("[::]:80")
	ids := n.d.linkIDs(t)
	must(t, n.d.Close())
	must(t, os.MkdirAll(pinRoot(n.bpffs)+"/v0/links", 0o700)) // of another version
	must(t, RemovePins(n.bpffs))
	if _, err := os.Stat(pinRoot(n.bpffs)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("pins are left: %v", err)
	}
	for _, id := range ids {
		testutil.Eventually(t, 2*time.Second, "a link is left", func() bool {
			l, err := link.NewFromID(id)
			if err == nil {
				l.Close()
			}
			return errors.Is(err, fs.ErrNotExist)
		})
	}
	// A link's number goes a moment before its program is detached.
	testutil.Eventually(t, 2*time.Second, "connections do not go direct", func() bool {
		_, err := p.dial(at(peer.ip4, 80))
		return err == nil
	})
	accept(t, far)
	if err := RemovePins(n.bpffs); err != nil {
		t.Errorf("where nothing is left: %v", err)
	}
	n.d = n.load()
}

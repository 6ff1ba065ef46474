// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAttachCost: a pod waits for this at its start. The maps are shared; with its own copies of them each program
// takes 25 to 75 ms to load.
func TestAttachCost(t *testing.T) {
	n := newNode(t)
	p := n.newPod()
	p.attach()
	start := time.Now()
	const times = 10
	for range times {
		must(t, n.d.AttachPod(p.spec(), int(p.ns), p.listeners()))
		p.guard()
	}
	each := time.Since(start) / times
	t.Logf("sk_lookup and guard: %v per pod", each)
	if each > 200*time.Millisecond {
		t.Errorf("%v per pod", each)
	}
}

// TestExemptCost logs the kernel's part in the making of a dial socket.
func TestExemptCost(t *testing.T) {
	n := newNode(t)
	p := n.newPod().capture()
	r := testing.Benchmark(func(b *testing.B) {
		fd := p.quickSocket(unix.AF_INET6)
		defer unix.Close(fd)
		for b.Loop() {
			if err := n.d.Exempt(fd); err != nil {
				b.Fatal(err)
			}
		}
	})
	t.Logf("marking a socket: %v", r)
}

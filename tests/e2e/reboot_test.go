// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// worksWithin is how long a booted node may take until its pods serve again. Most of it is kubelet and containerd.
const worksWithin = 90 * time.Second

// TestNodeRestart cuts the power of a node with pods of the mesh and boots it again: its pods start before and beside
// Warren, one of them connects in its first millisecond, and a client on the other node asks them all the time.
func TestNodeRestart(t *testing.T) {
	b := newBusy(t, Alone(t))
	line := b.marker + "-first"
	n1, n2 := b.client.Node, b.far.Node
	// By address and not by name: cluster DNS may be on the node that is off.
	near := b.near.Addr("tcp4", EchoPort).String()
	b.ns.Deploy(App{Name: "first", Node: n2, Args: []string{"talk", "-stay", "-retry", worksWithin.String(), near, line}})
	said := func() int {
		n := 0
		for _, h := range b.near.Heard() {
			if h.Line == line {
				n++
			}
		}
		return n
	}
	Eventually(t, 10*time.Second, "the pod on the node says something", func() string {
		if said() == 0 {
			return "nothing heard"
		}
		return ""
	})
	before := said()
	addresses := b.addresses("first", "far")
	wire := b.Wire(t)
	service, err := b.Client().CoreV1().Services(b.ns.Name).Get(t.Context(), "far", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	far80 := net.JoinHostPort(service.Spec.ClusterIP, "80")
	load := b.client.Load("-line", b.marker, "-timeout", "2s", "-every", "20ms", "echo://"+far80)
	beside := b.client.Load("-line", b.marker, "-every", "20ms", "echo://"+near, "hold://"+near)
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), worksWithin)
	defer cancel()
	if err := b.Restart(ctx, n2); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s is off and on again in %v", n2, time.Since(began).Round(time.Millisecond))
	Eventually(t, worksWithin, "the pod on the node says something again", func() string {
		if n := said(); n == before {
			return "nothing more heard"
		}
		return ""
	})
	t.Logf("a pod on %s speaks after %v", n2, time.Since(began).Round(time.Millisecond))
	var far *Pod
	Eventually(t, worksWithin, "the server on the node answers", func() string {
		pods := b.ns.Pods("app=far")
		if len(pods) != 1 || !pods[0].IPv4.IsValid() || pods[0].IPv4 == b.far.IPv4 {
			return fmt.Sprintf("pods %v", pods)
		}
		far = pods[0]
		if a := b.client.Talk("tcp4", far.Addr("tcp4", EchoPort).String(), b.marker, "-timeout", "2s"); !a.OK() {
			return a.Error
		}
		return ""
	})
	t.Logf("a server on %s answers after %v", n2, time.Since(began).Round(time.Millisecond))
	Eventually(t, 10*time.Second, "its service answers", func() string { return b.client.Talk("tcp4", far80, b.marker, "-timeout", "2s").Error })
	toward, apart := load.Stop(), beside.Stop()
	wire.Stop()
	t.Logf("during all of that %d requests to it did well, %d failed (%v)", toward.OK, toward.Failed, toward.Errors)
	if apart.Failed > 0 || apart.OK == 0 {
		t.Errorf("connections that never leave %s failed: %+v", n1, apart.Failures)
	}
	b.checkWire(t, wire, append(addresses, b.addresses("first", "far")...)...)
}

// addresses are those of the pods of these apps.
func (b *busy) addresses(apps ...string) []netip.Addr {
	var out []netip.Addr
	for _, app := range apps {
		for _, p := range b.ns.Pods("app=" + app) {
			out = append(out, p.IPv4, p.IPv6)
		}
	}
	return slices.DeleteFunc(out, func(a netip.Addr) bool { return !a.IsValid() })
}

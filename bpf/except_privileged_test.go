// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/reason"
)

// TestPodExceptions: one pod's are its own, for connect and guard alike, and end when they are no longer named.
func TestPodExceptions(t *testing.T) {
	n := newNode(t)
	p, other, peer := n.newPod().capture(), n.newPod().capture(), n.newPod()
	far := peer.listen("[::]:80")
	mapped := netip.AddrFrom16(peer.ip4.As16())
	direct := func(who *pod, dst netip.Addr, want bool) {
		t.Helper()
		before := n.stat(reason.Excepted)
		must1(who.dial(at(dst, 80)))(t)
		if want {
			accept(t, far)
			noConnection(t, who.out)
		} else {
			accept(t, who.out)
			noConnection(t, far)
		}
		if excepted := n.stat(reason.Excepted) > before; excepted != want {
			t.Errorf("connect to %v: counted as excepted %v, want %v", dst, excepted, want)
		}
	}
	direct(p, peer.ip4, false)
	must(t, n.d.Enable(p.spec(), netip.PrefixFrom(peer.ip4, 24), netip.PrefixFrom(peer.ip6, 64)))
	for _, dst := range []netip.Addr{peer.ip4, mapped, peer.ip6} {
		direct(p, dst, true)
		direct(other, dst, false)
	}
	must(t, n.d.Enable(p.spec(), netip.PrefixFrom(peer.ip4, 32)))
	direct(p, peer.ip4, true)
	direct(p, peer.ip6, false)
	// The mesh's own come and go beside them.
	must(t, n.d.SetExceptions([]netip.Prefix{netip.PrefixFrom(peer.ip6, 128)}))
	direct(p, peer.ip6, true)
	must(t, n.d.SetExceptions(nil))
	direct(p, peer.ip6, false)
	direct(p, peer.ip4, true)
	// What is refused changes nothing.
	many := make([]netip.Prefix, MaxExcept+1)
	for i := range many {
		many[i] = netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", i))
	}
	for _, bad := range [][]netip.Prefix{many, {netip.MustParsePrefix("::/0")}, {{}}} {
		if err := n.d.Enable(p.spec(), bad...); err == nil {
			t.Errorf("%v: no error", bad)
		}
		direct(p, peer.ip4, true)
	}
	must(t, n.d.Enable(p.spec()))
	direct(p, peer.ip4, false)
}

// TestGuardPodExceptions: the guard lets out what connect let pass, of this pod only.
func TestGuardPodExceptions(t *testing.T) {
	n := newNode(t)
	p, other, peer := n.newPod().capture(), n.newPod().capture(), n.newPod()
	far := peer.listen("[::]:80")
	must(t, n.d.Enable(p.spec(), netip.PrefixFrom(peer.ip4, 32)))
	enterCgroup(t, cgroup2Root(t)) // out of connect's sight
	mine, theirs := p.socket(unix.AF_INET, unix.SOCK_STREAM, 0), other.socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	enterCgroup(t, n.cgroup)
	must(t, dial(mine, at(peer.ip4, 80), answerTime))
	accept(t, far)
	if err := dial(theirs, at(peer.ip4, 80), silence); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("dial of another pod: %v, want no answer", err)
	}
	noConnection(t, far)
}

// TestPodExceptionsGoWithThePod: nothing of them is left for the next one.
func TestPodExceptionsGoWithThePod(t *testing.T) {
	n := newNode(t)
	p, other := n.newPod().capture(), n.newPod().capture()
	count := func() (left int) {
		var k sockopsPodException
		var v uint32
		for it := n.d.maps[mapPodExcept].Iterate(); it.Next(&k, &v); left++ {
		}
		return left
	}
	must(t, n.d.Enable(p.spec(), netip.MustParsePrefix("192.0.2.0/24")))
	must(t, n.d.Enable(other.spec(), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")))
	if got := count(); got != 3 {
		t.Fatalf("%d entries, want 3", got)
	}
	must(t, n.d.Disable(p.cookie))
	if got := count(); got != 2 {
		t.Errorf("%d entries after the end of the capture, want 2", got)
	}
	must(t, n.d.DetachPod(other.cookie))
	if got := count(); got != 0 {
		t.Errorf("%d entries are left", got)
	}
}

// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/reason"
)

func TestKernelHasAll(t *testing.T) {
	newNode(t)
	must(t, Probe())
}

// TestKubeletProbes: connections from the kubelet's cgroup pass, exactly those, and only while they live.
func TestKubeletProbes(t *testing.T) {
	n := newNode(t)
	kubelet := newCgroup(t)
	enterCgroup(t, n.cgroup)
	must(t, n.d.Close())
	cfg := n.config()
	cfg.ProbeCgroup = kubelet
	n.d = must1(Load(cfg))(t)
	p := n.newPod().capture()
	app := p.listen("[::]:80")
	host := &pod{t: t, node: n, ns: n.host}

	reset := func(fd int) {
		must(t, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
		must(t, unix.Close(fd))
	}
	for _, dst := range []netip.AddrPort{at(p.ip4, 80), at(p.ip6, 80)} {
		family := familyOf(dst.Addr())
		enterCgroup(t, kubelet)
		fd := host.quickSocket(family)
		enterCgroup(t, n.cgroup)
		must(t, dial(fd, dst, answerTime))
		accept(t, app)
		src := sockName(t, fd)

		// The same host at the same time, but not the kubelet.
		must(t, dial(host.socket(family, unix.SOCK_STREAM, 0), dst, answerTime))
		accept(t, p.plain)

		// The kubelet's very port, after it has closed.
		reset(fd)
		fd = host.quickSocket(family)
		must(t, unix.Bind(fd, sockaddr(family, src)))
		must(t, dial(fd, dst, answerTime))
		accept(t, p.plain)
		reset(fd)

		// A note older than ten seconds, as of a socket that never closed.
		key := sockopsTuple{Src: addrFrom(src.Addr()), Dst: addrFrom(dst.Addr()), SrcPort: src.Port(), DstPort: 80}
		must(t, n.d.maps["probes"].Put(&key, monotonic()-uint64(11*time.Second)))
		fd = host.quickSocket(family)
		must(t, unix.Bind(fd, sockaddr(family, src)))
		must(t, dial(fd, dst, answerTime))
		accept(t, p.plain)
		reset(fd)
	}
	if got := n.stat(reason.Probe); got != 2 {
		t.Errorf("counted %d probes, want 2", got)
	}
	must(t, n.d.Close())
	n.d = n.load() // without the kubelet's cgroup
	if n.d.links["probe"] != nil || pinned(n.d.linkPin(n.d.dir, hook{name: "probe"})) {
		t.Error("the probe hook is still attached")
	}
}

// TestKubeletMoves: probes are what comes from where the kubelet is now, also when that is a new cgroup at the old path.
func TestKubeletMoves(t *testing.T) {
	n := newNode(t)
	first, second := newCgroup(t), newCgroup(t)
	must(t, n.d.Close())
	cfg := n.config()
	cfg.ProbeCgroup = first
	n.d = must1(Load(cfg))(t)
	p := n.newPod().capture()
	app := p.listen("[::]:80")
	host := &pod{t: t, node: n, ns: n.host}
	connects := func(from string, to net.Listener) {
		t.Helper()
		enterCgroup(t, from)
		must(t, dial(host.quickSocket(unix.AF_INET), at(p.ip4, 80), answerTime))
		enterCgroup(t, n.cgroup)
		accept(t, to)
	}
	connects(first, app)
	must(t, n.d.SetProbeCgroup(second))
	connects(second, app)
	connects(first, p.plain)
	must(t, os.Remove(second))
	if len(n.d.Verify(nil)) == 0 {
		t.Error("the hook's cgroup is gone, and nothing is said to be wrong")
	}
	must(t, os.Mkdir(second, 0o755))
	connects(second, p.plain)
	must(t, n.d.SetProbeCgroup(second))
	connects(second, app)
	if err := n.d.SetProbeCgroup(second + "/none"); err == nil {
		t.Error("a cgroup that does not exist is no error")
	}
	if drift := n.d.Verify(nil); len(drift) > 0 {
		t.Errorf("without a kubelet: %v", drift)
	}
	connects(second, p.plain)
}

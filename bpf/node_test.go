// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	vishns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/tests/testutil"
)

// node is a machine for one test: a network namespace for the host with a bridge, a cgroup that the test process
// itself moves into (so every socket it makes belongs there), a bpffs, and a loaded Datapath.
type node struct {
	t      *testing.T
	host   netns
	cgroup string
	bpffs  string
	pods   int
	d      *Datapath
}

var (
	bridge4 = netip.MustParsePrefix("10.9.0.1/24")
	bridge6 = netip.MustParsePrefix("fd09::1/64")
	// outside has routes but nobody behind them.
	outside4 = netip.MustParseAddrPort("192.0.2.7:80")
	outside6 = netip.MustParseAddrPort("[2001:db8::7]:80")
)

func newNode(t *testing.T) *node {
	t.Helper()
	testutil.Privileged(t)
	n := &node{t: t, host: newNetns(t), cgroup: newCgroup(t), bpffs: newBPFFS(t)}
	h := n.host.netlink(t)
	snoop := false // it would lose neighbour solicitations while it learns
	must(t, h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}, MulticastSnooping: &snoop}))
	br := must1(h.LinkByName("br0"))(t)
	addAddr(t, h, br, bridge4, bridge6)
	n.d = n.load()
	t.Cleanup(func() { must(t, n.d.Remove()) })
	return n
}

func (n *node) config() Config { return Config{BPFFS: n.bpffs, Cgroup: n.cgroup} }

func (n *node) load() *Datapath {
	n.t.Helper()
	return must1(Load(n.config()))(n.t)
}

func (n *node) stat(r reason.Reason) uint64 {
	n.t.Helper()
	return must1(n.d.Stats())(n.t)[r]
}

// pod is a network namespace with eth0 on the node's bridge.
type pod struct {
	t        *testing.T
	node     *node
	ns       netns
	cookie   uint64
	ip4, ip6 netip.Addr
	ifindex  int // of the host's side of its veth
	out      net.Listener
	hbone    net.Listener
	plain    net.Listener
	workOnce sync.Once
	work     chan func() // for quickSocket
}

func (n *node) newPod() *pod {
	n.t.Helper()
	t := n.t
	n.pods++
	p := &pod{
		t: t, node: n, ns: newNetns(t),
		ip4: netip.AddrFrom4([4]byte{10, 9, 0, byte(n.pods + 1)}),
		ip6: netip.MustParseAddr(fmt.Sprintf("fd09::%x", n.pods+1)),
	}
	p.cookie = p.ns.cookie(t)
	h, ph := n.host.netlink(t), p.ns.netlink(t)
	name := fmt.Sprintf("veth%d", n.pods)
	must(t, h.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(p.ns)),
	}))
	veth, br := must1(h.LinkByName(name))(t), must1(h.LinkByName("br0"))(t)
	must(t, h.LinkSetMaster(veth, br))
	must(t, h.LinkSetUp(veth))
	p.ifindex = veth.Attrs().Index
	addAddr(t, ph, must1(ph.LinkByName("eth0"))(t), netip.PrefixFrom(p.ip4, 24), netip.PrefixFrom(p.ip6, 64))
	// The kernel's link watcher acts late when links come in bursts; until then frames are lost.
	waitUp(t, h, name)
	waitUp(t, ph, "eth0")
	waitUp(t, h, "br0")
	for _, gw := range []netip.Addr{bridge4.Addr(), bridge6.Addr()} {
		must(t, ph.RouteAdd(&netlink.Route{Gw: net.IP(gw.AsSlice())}))
	}
	return p
}

// capture gives the pod listeners in ztunnel's place and captures it.
func (p *pod) capture() *pod {
	p.t.Helper()
	p.attach()
	must(p.t, p.node.d.Enable(p.spec()))
	p.guard()
	return p
}

func (p *pod) spec() Pod { return Pod{Cookie: p.cookie, IPv4: p.ip4, IPv6: p.ip6} }

func (p *pod) attach() {
	p.t.Helper()
	p.out, p.plain, p.hbone = p.listen("[::]:15001"), p.listen("[::]:15006"), p.listen("[::]:15008")
	must(p.t, p.node.d.AttachPod(p.spec(), int(p.ns), p.listeners()))
}

func (p *pod) listeners() Listeners {
	return Listeners{Outbound: fdOf(p.t, p.out), HBONE: fdOf(p.t, p.hbone), Plaintext: fdOf(p.t, p.plain)}
}

func (p *pod) guard() {
	p.t.Helper()
	p.node.host.do(p.t, func() error { return p.node.d.AttachGuard(p.cookie, p.ifindex) })
}

// listen opens a plain TCP listener in the pod; with an IPv4 address an AF_INET one, which Go alone would not.
func (p *pod) listen(addr string) net.Listener {
	p.t.Helper()
	var l net.Listener
	p.ns.do(p.t, func() (err error) {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		network := "tcp"
		if netip.MustParseAddrPort(addr).Addr().Is4() {
			network = "tcp4"
		}
		l, err = lc.Listen(p.t.Context(), network, addr)
		return err
	})
	p.t.Cleanup(func() { l.Close() })
	return l
}

// socket makes a socket in the pod, as an application would.
func (p *pod) socket(family, typ, proto int) int {
	p.t.Helper()
	fd := -1
	p.ns.do(p.t, func() (err error) {
		fd, err = unix.Socket(family, typ|unix.SOCK_CLOEXEC, proto)
		return err
	})
	p.t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// netns is a descriptor of a network namespace.
type netns int

func newNetns(t *testing.T) netns {
	t.Helper()
	fd := make(chan any)
	go func() {
		runtime.LockOSThread() // the thread ends with its goroutine and never serves another one
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			fd <- err
			return
		}
		ns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			fd <- err
			return
		}
		fd <- netns(ns)
	}()
	got := <-fd
	ns, ok := got.(netns)
	if !ok {
		t.Fatal("make netns: ", got)
	}
	t.Cleanup(func() { unix.Close(int(ns)) })
	h := ns.netlink(t)
	must(t, h.LinkSetUp(must1(h.LinkByName("lo"))(t)))
	return ns
}

// do runs f on a thread in the namespace.
func (ns netns) do(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(int(ns), unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	must(t, <-done)
}

func (ns netns) netlink(t *testing.T) *netlink.Handle {
	t.Helper()
	h := must1(netlink.NewHandleAt(vishns.NsHandle(ns)))(t)
	t.Cleanup(h.Close)
	return h
}

func (ns netns) cookie(t *testing.T) (cookie uint64) {
	t.Helper()
	ns.do(t, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	return cookie
}

func addAddr(t *testing.T, h *netlink.Handle, l netlink.Link, prefixes ...netip.Prefix) {
	t.Helper()
	must(t, h.LinkSetUp(l))
	for _, p := range prefixes {
		must(t, h.AddrAdd(l, &netlink.Addr{
			IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
			Flags: unix.IFA_F_NODAD,
		}))
	}
}

func waitUp(t *testing.T, h *netlink.Handle, name string) {
	t.Helper()
	testutil.Eventually(t, 5*time.Second, name+" is not up", func() bool {
		return must1(h.LinkByName(name))(t).Attrs().OperState == netlink.OperUp
	})
}

// cgroup2Root finds the mount in /proc/mounts.
func cgroup2Root(t *testing.T) string {
	t.Helper()
	f := must1(os.Open("/proc/mounts"))(t)
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); fields[2] == "cgroup2" {
			return fields[1]
		}
	}
	t.Fatal("no cgroup2 is mounted")
	return ""
}

// newCgroup makes a cgroup and moves the test process into it until the test ends.
func newCgroup(t *testing.T) string {
	t.Helper()
	root := cgroup2Root(t)
	dir := must1(os.MkdirTemp(root, "warren-bpf-"))(t)
	t.Cleanup(func() { must(t, os.Remove(dir)) })
	enterCgroup(t, dir)
	t.Cleanup(func() { enterCgroup(t, root) })
	return dir
}

func enterCgroup(t *testing.T, dir string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0))
}

func newBPFFS(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount("bpf", dir, "bpf", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

func fdOf(t *testing.T, l net.Listener) int {
	t.Helper()
	rc := must1(l.(*net.TCPListener).SyscallConn())(t)
	var out int
	must(t, rc.Control(func(fd uintptr) { out = int(fd) }))
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%+v", err)
	}
}

// must1(f())(t) is f's value, or the end of the test.
func must1[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		must(t, err)
		return v
	}
}

// sysctl writes a setting of the pod's namespace.
func (p *pod) sysctl(name, value string) {
	p.t.Helper()
	p.ns.do(p.t, func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0) })
}

// quickSocket makes a socket in the pod without a thread of its own each time; the caller closes it.
func (p *pod) quickSocket(family int) int {
	p.workOnce.Do(func() {
		p.work = make(chan func())
		go func() {
			runtime.LockOSThread()
			if err := unix.Setns(int(p.ns), unix.CLONE_NEWNET); err != nil {
				panic(err)
			}
			for f := range p.work {
				f()
			}
		}()
		p.t.Cleanup(func() { close(p.work) })
	})
	made := make(chan int)
	p.work <- func() {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			panic(err)
		}
		made <- fd
	}
	return <-made
}

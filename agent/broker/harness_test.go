// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/tests/testutil"
	"github.com/warren-mesh/warren/ztunnel/inpod"
)

const roleEnv = "WARREN_BROKER_TEST_ROLE"

// TestMain lets the test binary be the broker that gets killed, the pod's application, and a stranger.
func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "":
		os.Exit(m.Run())
	case "broker":
		os.Exit(brokerRole())
	case "dial":
		os.Exit(dialRole())
	case "stranger":
		os.Exit(strangerRole())
	case "ztunnel":
		os.Exit(ztunnelRole())
	case "hang":
		os.Exit(hangRole())
	}
	os.Exit(2)
}

func brokerRole() int {
	var cfg Config
	if err := json.Unmarshal([]byte(os.Getenv("WARREN_BROKER_TEST_CONFIG")), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("broker", os.Getpid())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := Run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// dialRole connects, sends a word, and prints what comes back.
func dialRole() int {
	c, err := net.DialTimeout("tcp", os.Getenv("WARREN_BROKER_TEST_TO"), 5*time.Second)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(c, "hello")
	b := make([]byte, 64)
	n, err := c.Read(b)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	os.Stdout.Write(b[:n])
	return 0
}

// strangerRole speaks to the agents' socket as another user and says whether it was served.
func strangerRole() int {
	c, err := wire.Dial(context.Background(), os.Getenv("WARREN_BROKER_TEST_TO"))
	if err != nil {
		fmt.Println("refused:", err)
		return 0
	}
	_ = c.Send(wire.TypeHello, wire.Hello{Role: "agent"})
	if _, _, err := c.Recv(); err != nil {
		fmt.Println("refused:", err)
		return 0
	}
	fmt.Println("served")
	return 0
}

// world is a node: a host namespace, a cgroup tree and a bpffs of its own.
type world struct {
	t      testing.TB
	dir    string
	cgroup string
	host   *namespace
	cfg    Config
	pods   int
}

func newWorld(t testing.TB) *world {
	testutil.Privileged(t)
	// Short, unlike t.TempDir: the path of a unix socket has at most 107 bytes.
	dir, err := os.MkdirTemp("", "wb")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{t: t, dir: dir}
	if err := os.Chmod(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mount, err := cgroup2Mount("/sys/fs/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	w.cgroup = filepath.Join(mount, fmt.Sprintf("warren-broker-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
	must(t, os.MkdirAll(filepath.Join(w.cgroup, "kubepods", "node"), 0o755))
	t.Cleanup(func() { removeCgroup(t, w.cgroup) })
	bpffs := filepath.Join(w.dir, "bpf")
	must(t, os.Mkdir(bpffs, 0o755))
	must(t, unix.Mount("bpf", bpffs, "bpf", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(bpffs, unix.MNT_DETACH) })
	holder := w.hold(nil)
	w.host = openTestNamespace(t, holder)
	must(t, w.host.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}))
	w.cfg = Config{
		RunDir: filepath.Join(w.dir, "run"), HostNetns: fmt.Sprintf("/proc/%d/ns/net", holder),
		CgroupRoot: w.cgroup, BPFFS: bpffs, Drain: 20 * time.Second, Files: map[string]string{},
	}
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func removeCgroup(t testing.TB, dir string) {
	testutil.Eventually(t, 5*time.Second, "cgroup can't be removed: "+dir, func() bool {
		for _, pattern := range []string{"/*/*/*", "/*/*", "/*", ""} {
			m, _ := filepath.Glob(dir + pattern)
			for _, d := range m {
				_ = unix.Rmdir(d)
			}
		}
		_, err := os.Stat(dir)
		return os.IsNotExist(err)
	})
}

func openTestNamespace(t testing.TB, pid int) *namespace {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	must(t, err)
	ns, err := openNamespace(f)
	must(t, err)
	t.Cleanup(func() { ns.close() })
	return ns
}

// hold starts a process in a new network namespace and returns its pid.
func (w *world) hold(cgroup *os.File) int {
	c := exec.Command("sleep", "120")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if cgroup != nil {
		c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(cgroup.Fd())
	}
	must(w.t, c.Start())
	w.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return c.Process.Pid
}

// testPod is a pod with a process, a cgroup, and a veth to the host.
type testPod struct {
	w       *world
	uid     string
	cgroup  string
	pid     int
	ns      *namespace
	v4, v6  netip.Addr
	hostV4  netip.Addr
	hostV6  netip.Addr
	hostEnd string
}

func (w *world) pod() *testPod {
	w.pods++
	p := w.podNumbered(w.pods)
	must(w.t, os.MkdirAll(filepath.Join(p.cgroup, "sandbox"), 0o755))
	g, err := os.Open(filepath.Join(p.cgroup, "sandbox"))
	must(w.t, err)
	defer g.Close()
	p.pid = w.hold(g)
	p.ns = openTestNamespace(w.t, p.pid)
	must(w.t, p.ns.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}))
	p.plug()
	return p
}

// podNumbered is a pod of which nothing exists yet.
func (w *world) podNumbered(n int) *testPod {
	p := &testPod{
		w: w, uid: fmt.Sprintf("0000000%d-aaaa-bbbb-cccc-000000000000", n), hostEnd: fmt.Sprintf("wb%d", n),
		v4: netip.MustParseAddr(fmt.Sprintf("10.88.%d.2", n)), hostV4: netip.MustParseAddr(fmt.Sprintf("10.88.%d.1", n)),
		v6: netip.MustParseAddr(fmt.Sprintf("fd88:%d::2", n)), hostV6: netip.MustParseAddr(fmt.Sprintf("fd88:%d::1", n)),
	}
	p.cgroup = filepath.Join(w.cgroup, "kubepods", "pod"+p.uid)
	return p
}

// plug joins the pod to the host by a veth pair.
func (p *testPod) plug() {
	must(p.w.t, p.w.host.do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = p.hostEnd
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsPid(p.pid)}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return setAddresses(p.hostEnd, p.hostV4, p.hostV6)
	}))
	must(p.w.t, p.ns.do(func() error { return setAddresses("eth0", p.v4, p.v6) }))
}

func setAddresses(link string, v4, v6 netip.Addr) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	for _, p := range []string{v4.String() + "/24", v6.String() + "/64"} {
		a, err := netlink.ParseAddr(p)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		if v4 := a.IP.To4(); v4 != nil {
			a.Flags = 0
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

func (p *testPod) capture() wire.Capture {
	return wire.Capture{UID: p.uid, Namespace: "default", Name: "pod-" + p.uid[:8], ServiceAccount: "sa", Addresses: []netip.Addr{p.v4, p.v6}}
}

// listen makes an ordinary listener in a namespace.
func listenIn(t testing.TB, ns *namespace, addr netip.AddrPort) net.Listener {
	t.Helper()
	var l net.Listener
	must(t, ns.do(func() (err error) {
		l, err = net.Listen("tcp", addr.String())
		return err
	}))
	t.Cleanup(func() { l.Close() })
	return l
}

// dialIn connects from a namespace, in the test's own cgroup: the connect hooks don't see it.
func dialIn(ns *namespace, to netip.AddrPort) (c net.Conn, err error) {
	err = ns.do(func() (err error) {
		c, err = net.DialTimeout("tcp", to.String(), 5*time.Second)
		return err
	})
	return c, err
}

// appDials connects as the pod's application, from its cgroup and namespace, and returns what it got back.
func (p *testPod) appDials(to netip.AddrPort) (string, error) {
	g, err := os.Open(filepath.Join(p.cgroup, "sandbox"))
	if err != nil {
		return "", err
	}
	defer g.Close()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), roleEnv+"=dial", "WARREN_BROKER_TEST_TO="+to.String())
	c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(g.Fd())}
	var out []byte
	err = p.ns.do(func() (err error) { // the child inherits the thread's namespace
		out, err = c.Output()
		return err
	})
	return string(out), err
}

// process is a broker of its own.
type process struct {
	*exec.Cmd
	done chan error
}

// startBroker runs a broker in the node's cgroup, below kubepods as in production.
func (w *world) startBroker() *process {
	w.t.Helper()
	g, err := os.Open(filepath.Join(w.cgroup, "kubepods", "node"))
	must(w.t, err)
	defer g.Close()
	cfg, err := json.Marshal(w.cfg)
	must(w.t, err)
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), roleEnv+"=broker", "WARREN_BROKER_TEST_CONFIG="+string(cfg))
	c.Stderr = testWriter{w.t}
	c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(g.Fd())}
	must(w.t, c.Start())
	p := &process{Cmd: c, done: make(chan error, 1)}
	go func() { p.done <- c.Wait() }()
	w.t.Cleanup(func() { p.kill() })
	return p
}

// kill is kill -9 and waits for the end.
func (p *process) kill() {
	_ = p.Process.Kill()
	p.done <- <-p.done
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	os.Stderr.Write(b)
	return len(b), nil
}

// startAgent runs the agent's client.
func (w *world) startAgent() *wire.Client {
	c := wire.NewClient(w.cfg.RunDir, slog.New(slog.DiscardHandler))
	background(w.t, c.Run)
	return c
}

// startZtunnel runs ztunnel's side in this process.
func (w *world) startZtunnel(gen string) (*inpod.Broker, context.CancelFunc) {
	w.t.Helper()
	must(w.t, makeRunDir(w.cfg.RunDir, 0))
	z, err := inpod.Listen(w.cfg.RunDir, gen, inpod.WithLogger(slog.New(slog.DiscardHandler)))
	must(w.t, err)
	return z, background(w.t, z.Run)
}

func background(t testing.TB, run func(context.Context) error) context.CancelFunc {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	stop := func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func next[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("after 10 s: no %s", what)
		panic("unreachable")
	}
}

// waitState reads states up to the one wanted.
func waitState(t testing.TB, c *wire.Client, what string, want func(wire.State) bool) wire.State {
	t.Helper()
	for {
		if s := next(t, c.States(), "state: "+what); want(s) {
			return s
		}
	}
}

func isCaptured(s wire.State) bool { return s.Captured }

// listeners reads events up to the three listeners of a pod.
func listeners(t testing.TB, z *inpod.Broker, uid string) map[inpod.Kind]*inpod.Listener {
	t.Helper()
	out := map[inpod.Kind]*inpod.Listener{}
	for len(out) < 3 {
		if e := next(t, z.Events(), "listener"); e.Pod == uid && e.Listener != nil {
			out[e.Kind] = e.Listener
		}
	}
	return out
}

func (w *world) linkExists(name string) bool {
	err := w.host.do(func() error {
		_, err := netlink.LinkByName(name)
		return err
	})
	return err == nil
}

func (w *world) readSysctl(ns *namespace, name string) (v string) {
	must(w.t, ns.do(func() (err error) {
		b, err := os.ReadFile(filepath.Join("/proc", name))
		v = string(b)
		return err
	}))
	return v
}

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return -1
	}
	return n
}

func pidSuffix(p *process) string { return strconv.Itoa(p.Process.Pid) + ".sock" }

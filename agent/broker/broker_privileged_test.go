// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/tests/testutil"
	"github.com/warren-mesh/warren/ztunnel/inpod"
)

// captureOne brings up a node with one captured pod.
func captureOne(t *testing.T) (*world, *testPod, *process, *wire.Client, *inpod.Broker, map[inpod.Kind]*inpod.Listener) {
	w := newWorld(t)
	p := w.pod()
	z, _ := w.startZtunnel("a")
	b := w.startBroker()
	a := w.startAgent()
	a.Update(p.capture())
	a.Sync()
	ls := listeners(t, z, p.uid)
	waitState(t, a, "captured", isCaptured)
	return w, p, b, a, z, ls
}

// accepting answers each connection of a listener with its original destination.
func accepting(l *inpod.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			if strings.Contains(err.Error(), "closed") {
				return
			}
			time.Sleep(time.Millisecond) // shut down by somebody: the broker revives it
			continue
		}
		go func() {
			defer c.Close()
			b := make([]byte, 16)
			if _, err := c.Read(b); err != nil {
				return
			}
			dst, err := c.OriginalDestination()
			if err != nil {
				io.WriteString(c, err.Error())
			} else {
				io.WriteString(c, l.Kind().String()+" "+dst.String())
			}
			io.Copy(io.Discard, c) // until the peer closes: a close here would reset what it has not read
		}()
	}
}

func TestCapturedPodDialsAndIsDialled(t *testing.T) {
	w, p, _, _, z, ls := captureOne(t)
	for _, l := range ls {
		go accepting(l)
	}
	// What the broker's sockets dial leaves the pod, guard and hooks notwithstanding.
	for _, host := range []netip.Addr{p.hostV4, p.hostV6} {
		to := netip.AddrPortFrom(host, 9000)
		srv := listenIn(t, w.host, to)
		c, err := z.Dial(t.Context(), p.uid, to, netip.AddrPort{})
		must(t, err)
		got, err := srv.Accept()
		must(t, err)
		from := netip.MustParseAddrPort(got.RemoteAddr().String()).Addr()
		if from != p.v4 && from != p.v6 || from.Is4() != host.Is4() {
			t.Errorf("dial to %v came from %v", to, from)
		}
		if c.RemoteAddrPort() != to {
			t.Errorf("remote is %v, want %v", c.RemoteAddrPort(), to)
		}
		// A close without Orderly is a reset, one with it an end.
		must(t, c.Close())
		if _, err := got.Read(make([]byte, 1)); !isErrno(err, syscall.ECONNRESET) {
			t.Errorf("peer of a closed connection read %v, want ECONNRESET", err)
		}
		c, err = z.Dial(t.Context(), p.uid, to, netip.AddrPort{})
		must(t, err)
		got, err = srv.Accept()
		must(t, err)
		must(t, c.Orderly())
		must(t, c.Close())
		if _, err := got.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("peer of an orderly closed connection read %v, want EOF", err)
		}
	}
	// A socket that is not the broker's, and that the hooks did not see, gets no further than the veth.
	listenIn(t, w.host, netip.AddrPortFrom(p.hostV4, 9100))
	err := p.ns.do(func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(p.hostV4, 9100).String(), 200*time.Millisecond)
		if err == nil {
			c.Close()
		}
		return err
	})
	if ne, ok := err.(net.Error); !ok || !ne.Timeout() {
		t.Errorf("a socket of the pod's own dialled past the guard: %v", err)
	}
	// Inbound: plaintext to any port, HBONE to its own.
	for _, pod := range []netip.Addr{p.v4, p.v6} {
		for port, kind := range map[uint16]string{8080: "plaintext", 15008: "hbone"} {
			to := netip.AddrPortFrom(pod, port)
			if got := ask(t, w, to); got != kind+" "+to.String() {
				t.Errorf("dialled %v: answer %q", to, got)
			}
		}
	}
	// Outbound: the application's connect comes with its destination.
	for _, host := range []netip.Addr{p.hostV4, p.hostV6} {
		to := netip.AddrPortFrom(host, 7777)
		got, err := p.appDials(to)
		if want := "outbound " + to.String(); err != nil || got != want {
			t.Errorf("application dialled %v: %q, %v; want %q", to, got, err, want)
		}
	}
	// The client's address is shown to applications in the pod.
	app := listenIn(t, p.ns, netip.AddrPortFrom(p.v4, 8081))
	c, err := z.Dial(t.Context(), p.uid, netip.AddrPortFrom(p.v4, 8081), netip.MustParseAddrPort("192.0.2.7:1234"))
	must(t, err)
	defer c.Close()
	if _, err := app.Accept(); err != nil {
		t.Error(err)
	}
	if v := w.readSysctl(p.ns, "sys/net/ipv4/tcp_tw_reuse"); v != "1\n" {
		t.Errorf("tcp_tw_reuse is %q in a captured pod", v)
	}
	if v := w.readSysctl(p.ns, reservedPorts); v != captureRange+"\n" {
		t.Errorf("ports that are no source ports: %q in a captured pod, want %s", v, captureRange)
	}
}

func isErrno(err error, want syscall.Errno) bool {
	e, ok := err.(interface{ Unwrap() error })
	for ok {
		if err == want {
			return true
		}
		err = e.Unwrap()
		e, ok = err.(interface{ Unwrap() error })
	}
	return err == want
}

// ask dials from the host's namespace and returns the answer.
func ask(t testing.TB, w *world, to netip.AddrPort) string {
	t.Helper()
	s, err := askErr(w, to)
	must(t, err)
	return s
}

func askErr(w *world, to netip.AddrPort) (string, error) {
	c, err := dialIn(w.host, to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(c, "?")
	b := make([]byte, 256)
	n, err := c.Read(b)
	return string(b[:n]), err
}

func TestBrokerKilledAndRestarted(t *testing.T) {
	w, p, b, a, z, ls := captureOne(t)
	for _, l := range ls {
		go accepting(l)
	}
	var asked, failed atomic.Int64
	stop := background(t, func(ctx context.Context) error {
		for ctx.Err() == nil {
			asked.Add(1)
			if _, err := askErr(w, netip.AddrPortFrom(p.v4, 8080)); err != nil {
				failed.Add(1)
				t.Logf("lost: %v", err)
			}
		}
		return nil
	})
	before := w.listenerCookies(t)
	for range 2 {
		b.kill()
		testutil.Eventually(t, 5*time.Second, "ztunnel still believes in the broker", func() bool { return !z.Connected() })
		// The pool goes on from what it holds, and a listener accepts with no broker at all.
		c, err := z.Dial(t.Context(), p.uid, netip.AddrPortFrom(p.v4, 8080), netip.AddrPort{})
		if !isErrno(err, syscall.ECONNREFUSED) {
			t.Errorf("dial to a closed port of the pod with the broker away: %v, %v", c, err)
		}
		b = w.startBroker()
		if s := next(t, a.States(), "state of the new broker"); !s.Captured {
			t.Errorf("the new broker says %+v first", s)
		}
		testutil.Eventually(t, 5*time.Second, "broker does not come back to ztunnel", z.Connected)
	}
	testutil.Eventually(t, 5*time.Second, "sockets of the killed brokers stay", func() bool { return len(brokerSockets(t, w)) == 1 })
	stop()
	if failed.Load() > 0 || asked.Load() < 10 {
		t.Errorf("%d of %d connections lost over two kills", failed.Load(), asked.Load())
	}
	if after := w.listenerCookies(t); after != before {
		t.Errorf("listeners are not the same: cookies %v, before %v", after, before)
	}
	select {
	case e := <-z.Events():
		t.Errorf("ztunnel was told something new: %+v", e)
	default:
	}
	if got := ask(t, w, netip.AddrPortFrom(p.v6, 15008)); !strings.HasPrefix(got, "hbone") {
		t.Errorf("hbone answered %q", got)
	}
}

func (w *world) listenerCookies(t testing.TB) [wire.Kinds]uint64 {
	t.Helper()
	s, err := loadState(filepath.Join(w.cfg.RunDir, "broker"))
	must(t, err)
	if len(s.Pods) != 1 {
		t.Fatalf("%d pods saved, want 1", len(s.Pods))
	}
	for k, c := range s.Pods[0].Listeners {
		if c == 0 {
			t.Fatalf("no %v listener saved", wire.Kind(k))
		}
	}
	return s.Pods[0].Listeners
}

func TestBrokerStartedWithoutAgent(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	z, _ := w.startZtunnel("a")
	b := w.startBroker()
	a := wire.NewClient(w.cfg.RunDir, w.cfg.withDefaults().Log)
	stop := background(t, a.Run)
	a.Update(p.capture())
	a.Sync()
	listeners(t, z, p.uid)
	waitState(t, a, "captured", isCaptured)
	stop()
	b.kill()
	w.startBroker()
	testutil.Eventually(t, 5*time.Second, "broker does not come back to ztunnel", z.Connected)
	srv := listenIn(t, w.host, netip.AddrPortFrom(p.hostV4, 9000))
	go func() {
		for {
			if _, err := srv.Accept(); err != nil {
				return
			}
		}
	}()
	for range 300 { // more than any pool held
		c, err := z.Dial(t.Context(), p.uid, netip.AddrPortFrom(p.hostV4, 9000), netip.AddrPort{})
		must(t, err)
		must(t, c.Close())
	}
}

func TestHandover(t *testing.T) {
	w, p, first, a, z, ls := captureOne(t)
	for _, l := range ls {
		go accepting(l)
	}
	before := w.listenerCookies(t)
	second := w.startBroker()
	testutil.Eventually(t, 10*time.Second, "ztunnel has no broker", func() bool {
		return len(brokerSockets(t, w)) == 1 && strings.HasSuffix(brokerSockets(t, w)[0], "."+pidSuffix(second)) && z.Connected() && a.Connected()
	})
	if after := w.listenerCookies(t); after != before {
		t.Errorf("listeners are not the same: cookies %v, before %v", after, before)
	}
	if got := ask(t, w, netip.AddrPortFrom(p.v4, 8080)); !strings.HasPrefix(got, "plaintext") {
		t.Errorf("answer %q", got)
	}
	// The first one stands by, and works again when the second ends.
	second.kill()
	testutil.Eventually(t, 10*time.Second, "the first broker does not take over again", func() bool {
		s := brokerSockets(t, w)
		return len(s) > 0 && strings.HasSuffix(s[0], "."+pidSuffix(first)) && z.Connected()
	})
	if after := w.listenerCookies(t); after != before {
		t.Errorf("listeners are not the same: cookies %v, before %v", after, before)
	}
}

func brokerSockets(t testing.TB, w *world) []string {
	s, err := wire.SocketPaths(w.cfg.RunDir, "broker", "")
	must(t, err)
	return s
}

func TestPodGoneReleasesItsNamespace(t *testing.T) {
	w, p, _, a, z, ls := captureOne(t)
	srv := listenIn(t, w.host, netip.AddrPortFrom(p.hostV4, 9000))
	c, err := z.Dial(t.Context(), p.uid, netip.AddrPortFrom(p.hostV4, 9000), netip.AddrPort{})
	must(t, err)
	_ = srv
	must(t, c.Close())
	p.ns.close()
	must(t, syscall.Kill(p.pid, syscall.SIGKILL))
	for e := range z.Events() {
		if e.Gone && e.Pod == p.uid {
			break
		}
	}
	waitState(t, a, "gone", func(s wire.State) bool { return s.Gone })
	if _, err := ls[inpod.HBONE].Accept(); err == nil {
		t.Error("a gone pod's listener accepts")
	}
	// The veth goes with the namespace: nothing holds it, neither pool nor thread nor program.
	testutil.Eventually(t, 5*time.Second, "the namespace lives on", func() bool { return !w.linkExists(p.hostEnd) })
}

func TestUnenrol(t *testing.T) {
	w, p, _, a, z, ls := captureOne(t)
	go accepting(ls[inpod.HBONE])
	before := ask // the tunnel listener answers before and while draining
	if got := before(t, w, netip.AddrPortFrom(p.v4, 15008)); !strings.HasPrefix(got, "hbone") {
		t.Fatalf("hbone answered %q", got)
	}
	app := listenIn(t, p.ns, netip.AddrPortFrom(p.v4, 8080))
	a.Delete(p.uid)
	for e := range z.Events() {
		if e.Draining && e.Pod == p.uid {
			break
		}
	}
	// New connections are direct, tunnels go on.
	c, err := dialIn(w.host, netip.AddrPortFrom(p.v4, 8080))
	must(t, err)
	defer c.Close()
	if _, err := app.Accept(); err != nil {
		t.Error(err)
	}
	if got := ask(t, w, netip.AddrPortFrom(p.v4, 15008)); !strings.HasPrefix(got, "hbone") {
		t.Errorf("hbone answered %q while draining", got)
	}
	srv := listenIn(t, w.host, netip.AddrPortFrom(p.hostV4, 9000))
	d, err := dialIn(p.ns, netip.AddrPortFrom(p.hostV4, 9000)) // the guard lets others out again
	must(t, err)
	d.Close()
	_ = srv
	z.Drained(p.uid)
	for e := range z.Events() {
		if e.Gone && e.Pod == p.uid {
			break
		}
	}
	// The agent need not wait for the deadline to have ztunnel forget the pod and its key.
	waitState(t, a, "gone", func(s wire.State) bool { return s.Gone })
	testutil.Eventually(t, 5*time.Second, "traces are left", func() bool {
		pins, _ := filepath.Glob(filepath.Join(w.cfg.BPFFS, "warren", "*", "pods", "*"))
		s, err := loadState(filepath.Join(w.cfg.RunDir, "broker"))
		return len(pins) == 0 && err == nil && len(s.Pods) == 0
	})
	if v := w.readSysctl(p.ns, "sys/net/ipv4/tcp_tw_reuse"); v == "1\n" {
		t.Error("tcp_tw_reuse was not restored")
	}
	if v := w.readSysctl(p.ns, reservedPorts); v != "\n" {
		t.Errorf("ports that are no source ports: %q, want them restored", v)
	}
}

func TestShutDownListenerIsRevived(t *testing.T) {
	w, p, _, a, _, ls := captureOne(t)
	go accepting(ls[inpod.HBONE])
	_ = a
	fd := duplicate(t, ls[inpod.HBONE])
	defer unix.Close(fd)
	must(t, unix.Shutdown(fd, unix.SHUT_RDWR))
	testutil.Eventually(t, 5*time.Second, "the listener stays dead", func() bool {
		got, err := askErr(w, netip.AddrPortFrom(p.v4, 15008))
		return err == nil && strings.HasPrefix(got, "hbone")
	})
}

// duplicate finds the listener's socket among the process's own descriptors, as a hostile ztunnel would.
func duplicate(t testing.TB, l *inpod.Listener) int {
	t.Helper()
	es, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, e := range es {
		fd := atoi(e.Name())
		if c, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err == nil && c == l.Cookie() {
			d, err := unix.Dup(fd)
			must(t, err)
			return d
		}
	}
	t.Fatal("no descriptor of the listener")
	return -1
}

// The next ztunnel's connections inherit it from the listener.
func TestListenersStayAbrupt(t *testing.T) {
	_, _, _, _, _, ls := captureOne(t)
	for kind, l := range ls {
		fd := duplicate(t, l)
		defer unix.Close(fd)
		must(t, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{}))
		testutil.Eventually(t, 5*time.Second, kind.String()+": a connection's end would look clean", func() bool {
			on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_LINGER)
			return err == nil && on == 1
		})
	}
}

func TestZtunnelRestartGetsTheSameListeners(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	z, stop := w.startZtunnel("a")
	w.startBroker()
	a := w.startAgent()
	a.Update(p.capture())
	a.Sync()
	old := listeners(t, z, p.uid)
	waitState(t, a, "captured", isCaptured)
	stop()
	z2, _ := w.startZtunnel("b")
	for k, l := range listeners(t, z2, p.uid) {
		if l.Cookie() != old[k].Cookie() {
			t.Errorf("%v listener is another socket", k)
		}
		go accepting(l)
	}
	if got := ask(t, w, netip.AddrPortFrom(p.v4, 8080)); !strings.HasPrefix(got, "plaintext") {
		t.Errorf("answer %q", got)
	}
}

// TestListenersAreGivenAgain: ztunnel let go of a captured pod's at an agent's word, and hears of the pod again.
func TestListenersAreGivenAgain(t *testing.T) {
	w, p, _, a, z, ls := captureOne(t)
	unhurt := ls[inpod.HBONE]
	for _, k := range []inpod.Kind{inpod.Outbound, inpod.Plaintext} {
		ls[k].Close()
	}
	z.Drained(p.uid) // says a pod that left; the broker knows better
	z.Reopen(p.uid)
	for range 2 {
		e := next(t, z.Events(), "listener")
		if e.Listener == nil || e.Kind == inpod.HBONE || e.Listener.Cookie() != ls[e.Kind].Cookie() {
			t.Fatalf("event %+v, want the closed ones again", e)
		}
		go accepting(e.Listener)
	}
	go accepting(unhurt)
	for port, kind := range map[uint16]string{8080: "plaintext", 15008: "hbone"} {
		if answer := ask(t, w, netip.AddrPortFrom(p.v4, port)); !strings.HasPrefix(answer, kind) {
			t.Errorf("port %d: answer %q", port, answer)
		}
	}
	a.Delete(p.uid) // from now on they are not ztunnel's to have
	for e := next(t, z.Events(), "the end"); !e.Draining; e = next(t, z.Events(), "the end") {
		if e.Listener != nil {
			t.Fatalf("event %+v", e)
		}
	}
	unhurt.Close()
	z.Reopen(p.uid)
	z.Drained(p.uid)
	for e := next(t, z.Events(), "the end"); !e.Gone; e = next(t, z.Events(), "the end") {
		t.Errorf("event %+v of a pod that leaves", e)
	}
}

func TestDriftIsRepaired(t *testing.T) {
	w, p, _, a, _, ls := captureOne(t)
	go accepting(ls[inpod.Plaintext])
	pins := filepath.Join(w.cfg.BPFFS, "warren", "v1", "pods")
	pods, err := os.ReadDir(pins)
	must(t, err)
	if len(pods) != 1 {
		t.Fatalf("%d pods pinned", len(pods))
	}
	list := func() string {
		es, err := os.ReadDir(filepath.Join(pins, pods[0].Name()))
		must(t, err)
		var names []string
		for _, e := range es {
			names = append(names, e.Name())
		}
		return strings.Join(names, " ")
	}
	before := list()
	for _, name := range strings.Fields(before) {
		must(t, os.Remove(filepath.Join(pins, pods[0].Name(), name)))
	}
	testutil.Eventually(t, 5*time.Second, "pins are not repaired", func() bool { return list() == before })
	s, err := a.Stats(t.Context())
	must(t, err)
	if s.Repairs == 0 || time.Since(s.Verified) > 2*time.Second {
		t.Errorf("figures %+v", s)
	}
	if got := ask(t, w, netip.AddrPortFrom(p.v4, 8080)); !strings.HasPrefix(got, "plaintext") {
		t.Errorf("answer %q", got)
	}
}

// A pod that took one of ztunnel's ports before it was captured has not left the mesh by that: nothing of it gets out
// until it lets go, and then it is captured. One that ran before it was enrolled stays outside.
func TestPodThatHoldsAPortOfTheMesh(t *testing.T) {
	for _, port := range []uint16{wire.PortOutbound, wire.PortPlaintext, wire.PortHBONE} {
		for _, running := range []bool{false, true} {
			t.Run(fmt.Sprintf("port %d, running %v", port, running), func(t *testing.T) {
				w := newWorld(t)
				p := w.pod()
				server := netip.AddrPortFrom(p.hostV4, 9000)
				srv := listenIn(t, w.host, server)
				go greet(srv, "out")
				holder := listenIn(t, p.ns, netip.AddrPortFrom(netip.IPv6Unspecified(), port))
				z, _ := w.startZtunnel("a")
				go acceptAll(z)
				w.startBroker()
				a := w.startAgent()
				c := p.capture()
				c.Running = running
				a.Update(c)
				a.Sync()
				waitState(t, a, "not captured, and why", func(s wire.State) bool {
					return !s.Captured && strings.Contains(s.Reason, fmt.Sprint(port))
				})
				got, err := p.appDials(server)
				if out := err == nil && got == "out"; out != running {
					t.Errorf("the pod's dial gave %q, %v", got, err)
				}
				must(t, holder.Close())
				waitState(t, a, "captured once it let go", isCaptured)
			})
		}
	}
}

// acceptAll serves whatever listener comes.
func acceptAll(z *inpod.Broker) {
	for e := range z.Events() {
		if e.Listener != nil {
			go accepting(e.Listener)
		}
	}
}

// greet writes a word to each connection.
func greet(l net.Listener, word string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		io.WriteString(c, word)
		c.Close()
	}
}

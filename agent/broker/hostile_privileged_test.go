// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/tests/testutil"
)

func TestHostileZtunnelStaysWithinCredits(t *testing.T) {
	w := newWorld(t)
	w.cfg.CreditRate, w.cfg.CreditBurst = 1000, 300
	p, q := w.pod(), w.pod()
	w.startBroker()
	a := w.startAgent()
	a.Update(p.capture())
	a.Update(q.capture())
	a.Sync()
	waitState(t, a, "captured", isCaptured)
	waitState(t, a, "captured", isCaptured)
	z := w.rawZtunnel()
	z.greet()
	start := time.Now()
	asked, given := 0, 0
	for time.Since(start) < 300*time.Millisecond {
		asked += wire.MaxFDs
		given += z.sockets(p.uid, wire.MaxFDs)
	}
	if allowed := 300 + int(1000*time.Since(start).Seconds()) + 1; given > allowed || given < 300 || asked < 4*given {
		t.Errorf("%d of %d sockets given in %v, at most %d are allowed", given, asked, time.Since(start), allowed)
	}
	if n := z.sockets(q.uid, 200); n != 200 {
		t.Errorf("another pod got %d of 200 sockets", n)
	}
	if n := z.sockets("no-such-pod", 1); n != 0 {
		t.Errorf("%d sockets for a pod that is not captured", n)
	}
	s, err := a.Stats(t.Context())
	must(t, err)
	if pool := s.Pools[p.uid]; int(pool.Given) != given || int(pool.Asked) != asked || pool.Refused != pool.Asked-pool.Given {
		t.Errorf("figures %+v, given %d of %d", pool, given, asked)
	}
	if s.Ztunnels != 1 || len(s.Pods) != 2 || len(s.Drifts) != 0 {
		t.Errorf("figures %+v", s)
	}
}

// The agent must not run out of descriptors for one ztunnel's connections.
func TestHostileZtunnelAsksForNames(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, "token")
	must(t, os.WriteFile(path, []byte("x"), 0o600))
	w.cfg.Files["token"] = path
	w.startBroker()
	z := w.rawZtunnel()
	z.greet()
	agent, err := wire.Listen(filepath.Join(w.cfg.RunDir, wire.SocketName("agent", "1", "zds")))
	must(t, err)
	defer agent.Close()
	const n = 5 * namedBurst
	start, given := time.Now(), 0
	for i := range uint64(n) {
		what, name := wire.TypeUnixRequest, "zds"
		if i%2 == 0 {
			what, name = wire.TypeFileRequest, "token"
		}
		must(t, z.conn.Send(what, wire.NameRequest{ID: i, Name: name}))
		r := z.answer()
		if r.ID != i {
			t.Fatalf("answer %+v to question %d", r, i)
		}
		if r.Error == "" {
			given++
		}
	}
	if allowed := namedBurst + int(namedRate*time.Since(start).Seconds()) + 1; given < namedBurst || given > allowed {
		t.Errorf("%d of %d given, at least %d and at most %d are allowed", given, n, namedBurst, allowed)
	}
}

func TestZtunnelThatBreaksTheProtocolIsLeft(t *testing.T) {
	for name, tt := range map[string]struct {
		t    wire.Type
		body any
	}{
		"too many sockets": {wire.TypeSocketsRequest, wire.SocketsRequest{Pod: "p", Count: wire.MaxFDs + 1}},
		"no sockets":       {wire.TypeSocketsRequest, wire.SocketsRequest{Pod: "p"}},
		"agent's message":  {wire.TypeCaptureUpdate, wire.CaptureUpdate{Capture: wire.Capture{UID: "x"}}},
		"handover":         {wire.TypeHandover, wire.Empty{}},
		"other body":       {wire.TypeSocketsRequest, wire.Hello{Role: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.startBroker()
			z := w.rawZtunnel()
			z.greet()
			must(t, z.conn.Send(tt.t, tt.body))
			for {
				m, fds, err := z.conn.Recv()
				wire.CloseFDs(fds)
				if err == io.EOF {
					return
				}
				must(t, err)
				if m.Type == wire.TypeSockets {
					t.Fatal("served")
				}
			}
		})
	}
}

func TestZtunnelOfAnotherUserIsRefused(t *testing.T) {
	w := newWorld(t)
	w.cfg.ZtunnelUID = 4242
	w.startBroker()
	z := w.rawZtunnel()
	if m, _, err := z.conn.Recv(); err != io.EOF {
		t.Errorf("got message %d, %v; want the end", m.Type, err)
	}
}

func TestAgentOfAnotherUserIsRefused(t *testing.T) {
	w := newWorld(t)
	w.startBroker()
	var sockets []string
	testutil.Eventually(t, 5*time.Second, "no broker socket of the mode that the broker gives it", func() bool {
		sockets = brokerSockets(t, w)
		if len(sockets) != 1 {
			return false
		}
		st, err := os.Stat(sockets[0])
		return err == nil && st.Mode().Perm() == 0o660
	})
	// Even where file modes let it in, as they do for ztunnel's group.
	must(t, os.Chmod(w.cfg.RunDir, 0o755))
	must(t, os.Chmod(sockets[0], 0o666))
	exe := filepath.Join(w.dir, "stranger")
	b, err := os.ReadFile(os.Args[0])
	must(t, err)
	must(t, os.WriteFile(exe, b, 0o755))
	c := exec.Command(exe)
	c.Dir = "/"
	c.Env = append(os.Environ(), roleEnv+"=stranger", "WARREN_BROKER_TEST_TO="+sockets[0])
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: wire.ZtunnelUID, Gid: wire.ZtunnelUID}}
	out, err := c.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "refused: EOF") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestUnknownVersionIsRefused(t *testing.T) {
	w := newWorld(t)
	w.startBroker()
	testutil.Eventually(t, 5*time.Second, "no broker socket", func() bool { return len(brokerSockets(t, w)) == 1 })
	c, err := net.Dial("unixpacket", brokerSockets(t, w)[0])
	must(t, err)
	defer c.Close()
	_, err = c.Write([]byte{wire.Version + 1, byte(wire.TypeHello), 0, 0, '{', '}'})
	must(t, err)
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := c.Read(make([]byte, 64)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("answered with %d bytes, %v", n, err)
	}
	a := w.startAgent() // and others are served on
	testutil.Eventually(t, 5*time.Second, "the agent is not served", a.Connected)
}

func TestHangingZtunnelIsEnded(t *testing.T) {
	w := newWorld(t)
	w.cfg.CreditRate, w.cfg.CreditBurst = 1<<20, 1<<20
	must(t, makeRunDir(w.cfg.RunDir, 0))
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), roleEnv+"=hang", dirEnv+"="+w.cfg.RunDir)
	must(t, c.Start())
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	t.Cleanup(func() { _ = c.Process.Kill() })
	w.startBroker()
	select {
	case err := <-done:
		var ee *exec.ExitError
		if !errors.As(err, &ee) || ee.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Errorf("it ended with %v, want SIGKILL", err)
		}
	case <-time.After(2*wire.WriteTimeout + 5*time.Second):
		t.Error("it hangs on")
	}
}

// TestSealedZtunnel carries connections through a ztunnel with its real user, under the filter in kill mode,
// across a restart of the broker.
// sealedZtunnel starts a ztunnel of its real user, and a broker, and waits until they are done with each other.
func (w *world) sealedZtunnel() (*exec.Cmd, *process) {
	t := w.t
	w.cfg.ZtunnelUID, w.cfg.RunDirGID = wire.ZtunnelUID, wire.ZtunnelUID
	w.cfg.Files["token"] = filepath.Join(w.dir, "token")
	must(t, os.WriteFile(w.cfg.Files["token"], []byte("secret"), 0o600))
	must(t, makeRunDir(w.cfg.RunDir, wire.ZtunnelUID))
	for what, network := range map[string]string{"zds": "unixpacket", "wds": "unix"} {
		l, err := net.Listen(network, filepath.Join(w.cfg.RunDir, wire.SocketName("agent", "1", what)))
		must(t, err)
		t.Cleanup(func() { l.Close() })
		go echo(l)
	}
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), roleEnv+"=ztunnel", dirEnv+"="+w.cfg.RunDir, "MALLOC_ARENA_MAX=1")
	c.Stderr = testWriter{t}
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	b := w.startBroker()
	lines := bufio.NewScanner(out)
	for _, want := range []string{"token secret", "zds hi zds", "wds hi wds", "ready"} {
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("ztunnel says %q, want %q", lines.Text(), want)
		}
	}
	return c, b
}

func TestSealedZtunnel(t *testing.T) {
	w := newWorld(t)
	c, b := w.sealedZtunnel()
	p := w.pod()
	a := w.startAgent()
	a.Update(p.capture())
	a.Sync()
	waitState(t, a, "captured", isCaptured)
	for _, addr := range []netip.Addr{p.v4, p.v6} {
		to := netip.AddrPortFrom(addr, 8080)
		go echo(listenIn(t, p.ns, to))
		through(t, w, to)
	}
	b.kill()
	through(t, w, netip.AddrPortFrom(p.v4, 8080)) // from the pool
	w.startBroker()
	waitState(t, a, "captured", isCaptured)
	for range 100 {
		through(t, w, netip.AddrPortFrom(p.v6, 8080))
	}
	if err := c.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("ztunnel: %v", err)
	}
}

// TestOtherProcessesOfTheUser: the kernel counts the descriptors on their way for all processes of a user, whatever
// container they are in. One that lets them pile up does not come between ztunnel and a new broker.
func TestOtherProcessesOfTheUser(t *testing.T) {
	w := newWorld(t)
	_, b := w.sealedZtunnel()
	p := w.pod()
	a := w.startAgent()
	a.Update(p.capture())
	a.Sync()
	waitState(t, a, "captured", isCaptured)
	to := netip.AddrPortFrom(p.v4, 8080)
	go echo(listenIn(t, p.ns, to))
	through(t, w, to)
	b.kill()
	pileUp(t)
	w.startBroker()
	waitState(t, a, "captured", isCaptured)
	for range 100 {
		through(t, w, to)
	}
}

// pileUp sends descriptors that nobody receives, as ztunnel's user, until the kernel lets none travel.
func pileUp(t *testing.T) {
	t.Helper()
	rights := unix.UnixRights(make([]int, wire.MaxFDs)...)
	err := asZtunnel(func() error {
		for {
			s, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			t.Cleanup(func() { wire.CloseFDs(s[:]) })
			for err == nil {
				err = unix.Sendmsg(s[0], []byte("x"), rights, nil, 0)
			}
			if !errors.Is(err, unix.EAGAIN) { // full: another one
				return err
			}
		}
	})
	if !errors.Is(err, unix.ETOOMANYREFS) {
		t.Fatal(err)
	}
}

// through sends bytes to an echoing application and compares what comes back, up to an orderly end.
func through(t *testing.T, w *world, to netip.AddrPort) {
	t.Helper()
	c, err := dialIn(w.host, to)
	must(t, err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	payload := make([]byte, 200<<10)
	_, _ = rand.Read(payload)
	go func() {
		_, _ = c.Write(payload)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, payload) {
		t.Fatalf("%v: %d bytes of %d came back: %v", to, len(got), len(payload), err)
	}
}

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
		}()
	}
}

// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	wire "github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/tests/testutil"
	"github.com/warren-mesh/warren/ztunnel/inpod"
	"github.com/warren-mesh/warren/ztunnel/seal"
)

const dirEnv = "WARREN_BROKER_TEST_DIR"

// ztunnelRole is a ztunnel with its real user, sealed in kill mode: it reads its files and unix connections, and
// carries plaintext connections to where they wanted to go.
func ztunnelRole() int {
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(wire.ZtunnelUID), syscall.Setuid(wire.ZtunnelUID)); err != nil {
		fmt.Println(err)
		return 1
	}
	syscall.Umask(0o007)
	z, err := inpod.Listen(os.Getenv(dirEnv), "sealed", inpod.WithLogger(slog.New(slog.NewTextHandler(os.Stderr, nil))))
	if err == nil {
		err = seal.Seal(seal.Kill)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	go func() { _ = z.Run(context.Background()) }()
	if err := readEverything(z); err != nil {
		fmt.Println(err)
		return 1
	}
	for e := range z.Events() {
		if e.Listener != nil && e.Kind == inpod.Plaintext {
			go carry(z, e.Listener)
		}
	}
	return 0
}

func readEverything(z *inpod.Broker) error {
	token, err := z.ReadFile(context.Background(), "token")
	if err != nil {
		return err
	}
	fmt.Printf("token %s\n", token)
	if _, err := z.ReadFile(context.Background(), "shadow"); err == nil {
		return errors.New("a file that is not in the list was read")
	}
	for _, name := range []string{"zds", "wds"} {
		c, err := z.Unix(context.Background(), name)
		if err != nil {
			return err
		}
		b := make([]byte, 16)
		if _, err := io.WriteString(c, "hi "+name); err != nil {
			return err
		}
		n, err := c.Read(b)
		if err != nil {
			return err
		}
		fmt.Printf("%s %s\n", name, b[:n])
		c.Close()
	}
	if _, err := z.Unix(context.Background(), "docker"); err == nil {
		return errors.New("a unix socket that is not in the list was connected")
	}
	fmt.Println("ready")
	return nil
}

func carry(z *inpod.Broker, l *inpod.Listener) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			dst, err := in.OriginalDestination()
			if err != nil {
				_ = in.Reset()
				return
			}
			out, err := z.Dial(context.Background(), l.Pod(), dst, in.RemoteAddrPort())
			if err != nil {
				fmt.Println(err)
				_ = in.Reset()
				return
			}
			relay(in, out)
		}()
	}
}

// relay copies both ways; only two orderly ends make an orderly end.
func relay(a, b *inpod.Conn) {
	var wg sync.WaitGroup
	var errs [2]error
	copyHalf := func(i int, dst, src *inpod.Conn) {
		if _, errs[i] = io.Copy(dst, src); errs[i] == nil {
			errs[i] = dst.CloseWrite()
		} else {
			_ = a.Reset()
			_ = b.Reset()
		}
	}
	wg.Go(func() { copyHalf(0, a, b) })
	wg.Go(func() { copyHalf(1, b, a) })
	wg.Wait()
	if errors.Join(errs[:]...) == nil {
		_, _ = a.Orderly(), b.Orderly()
	}
	a.Close()
	b.Close()
}

// hangRole is a ztunnel that asks and never reads.
func hangRole() int {
	l, err := wire.Listen(filepath.Join(os.Getenv(dirEnv), wire.SocketName("ztunnel", "hang", "")))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for { // the first connection only collects listeners
		uc, err := l.AcceptUnix()
		if err != nil {
			fmt.Println(err)
			return 1
		}
		go hang(wire.NewConn(uc))
	}
}

func hang(c *wire.Conn) {
	_, _, _ = c.Recv()
	_ = c.Send(wire.TypeHello, wire.Hello{Role: "ztunnel"})
	_ = c.Send(wire.TypeListenersDone, wire.Empty{})
	for c.Send(wire.TypeSocketsRequest, wire.SocketsRequest{Pod: "", Count: wire.MaxFDs}) == nil {
	}
	select {} // the broker reads no more; it must end us, not the other way round
}

// rawZtunnel is a ztunnel without manners, in the test's process.
type rawZtunnel struct {
	w    *world
	conn *wire.Conn
}

func (w *world) rawZtunnel() *rawZtunnel {
	w.t.Helper()
	must(w.t, makeRunDir(w.cfg.RunDir, 0))
	// A broker that starts asks for listeners on a connection that it then gives up: not that one is meant.
	testutil.Eventually(w.t, 5*time.Second, "the broker answers", func() bool { return len(brokerSockets(w.t, w)) > 0 })
	l, err := wire.Listen(filepath.Join(w.cfg.RunDir, wire.SocketName("ztunnel", "raw", "")))
	must(w.t, err)
	w.t.Cleanup(func() { l.Close() })
	uc, err := l.AcceptUnix()
	must(w.t, err)
	c := wire.NewConn(uc)
	w.t.Cleanup(func() { c.Close() })
	return &rawZtunnel{w: w, conn: c}
}

func (z *rawZtunnel) greet() {
	t := z.w.t
	m, _, err := z.conn.Recv()
	must(t, err)
	if m.Type != wire.TypeHello {
		t.Fatalf("first message is %d", m.Type)
	}
	must(t, z.conn.Send(wire.TypeHello, wire.Hello{Role: "ztunnel"}))
	must(t, z.conn.Send(wire.TypeListenersDone, wire.Empty{}))
}

// sockets asks once and closes what it is given.
func (z *rawZtunnel) sockets(pod string, n int) (given int) {
	t := z.w.t
	must(t, z.conn.Send(wire.TypeSocketsRequest, wire.SocketsRequest{Pod: pod, Count: n}))
	for {
		m, fds, err := z.conn.Recv()
		must(t, err)
		wire.CloseFDs(fds)
		if m.Type == wire.TypeSockets {
			var s wire.Sockets
			must(t, m.Into(&s))
			if s.Given != len(fds) || s.Asked != n || s.Given < n && s.RetryAfter <= 0 {
				t.Errorf("answer %+v with %d sockets", s, len(fds))
			}
			return len(fds)
		}
	}
}

// answer receives the answer to a question by name, and closes what came with it.
func (z *rawZtunnel) answer() (r wire.NameReply) {
	t := z.w.t
	for {
		m, fds, err := z.conn.Recv()
		must(t, err)
		wire.CloseFDs(fds)
		if m.Type == wire.TypeUnix || m.Type == wire.TypeFile {
			must(t, m.Into(&r))
			return r
		}
	}
}

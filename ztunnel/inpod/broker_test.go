// SPDX-License-Identifier: Apache-2.0

package inpod

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/tests/testutil"
)

// started runs a Broker, and returns it with the directory of its socket.
func started(t *testing.T, opts ...Option) (*Broker, string) {
	t.Helper()
	dir := t.TempDir()
	opts = append([]Option{WithLogger(slog.New(slog.DiscardHandler)), WithBrokerUID(uint32(os.Getuid())), WithWait(5 * time.Second)}, opts...)
	b, err := Listen(dir, "1", opts...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b, filepath.Join(dir, "ztunnel-1.sock")
}

// far is the privileged broker's end.
type far struct {
	t    *testing.T
	conn *broker.Conn
	back []broker.ListenerMessage // handed back
}

func dialled(t *testing.T, path string) *far {
	t.Helper()
	c, err := broker.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	f := &far{t: t, conn: c}
	t.Cleanup(func() { c.Close() })
	f.send(broker.TypeHello, broker.Hello{Role: "broker"})
	for {
		m, fds, err := c.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			unix.Close(fd)
		}
		switch m.Type {
		case broker.TypeListener:
			var lm broker.ListenerMessage
			if err := m.Into(&lm); err != nil || len(fds) != 1 {
				t.Fatal(err, fds)
			}
			f.back = append(f.back, lm)
		case broker.TypeListenersDone:
			return f
		}
	}
}

func (f *far) send(mt broker.Type, body any, fds ...int) {
	f.t.Helper()
	if err := f.conn.Send(mt, body, fds...); err != nil {
		f.t.Fatal(err)
	}
}

// serve answers requests for sockets with unconnected ones, as long as the connection is there.
func (f *far) serve() {
	for {
		m, _, err := f.conn.Recv()
		if err != nil {
			return
		}
		var r broker.SocketsRequest
		if m.Type != broker.TypeSocketsRequest || m.Into(&r) != nil {
			continue
		}
		var fds []int
		for range r.Count {
			fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				return
			}
			_ = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 0)
			setOptions(fd)
			fds = append(fds, fd)
		}
		_ = f.conn.Send(broker.TypeSockets, broker.Sockets{Pod: r.Pod, Asked: r.Count, Given: len(fds)}, fds...)
		broker.CloseFDs(fds)
	}
}

// keepIdle is an option of every socket here, in seconds, that nobody else would choose.
const keepIdle = 77

func setOptions(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_KEEPIDLE, keepIdle)
	_ = unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_NODELAY, 1)
}

// listenSocket makes a listening socket as the broker does, and tells its cookie and address.
func listenSocket(t *testing.T) (fd int, cookie uint64, at netip.AddrPort) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	_ = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 0)
	setOptions(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet6{}), unix.Listen(fd, 16)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	return fd, cookie, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet6).Port))
}

func event(t *testing.T, b *Broker) Event {
	t.Helper()
	select {
	case e := <-b.Events():
		return e
	case <-time.After(5 * time.Second):
		t.Fatal("no event")
		panic("unreachable")
	}
}

func TestListenersAreHandedBack(t *testing.T) {
	b, path := started(t)
	first := dialled(t, path)
	fd, cookie, _ := listenSocket(t)
	first.send(broker.TypeListener, broker.ListenerMessage{Pod: "p", Kind: HBONE, Cookie: cookie}, fd)
	l := event(t, b).Listener
	if l == nil || l.Cookie() != cookie || l.Kind() != HBONE || l.Pod() != "p" {
		t.Fatalf("listener %+v", l)
	}
	first.conn.Close()
	second := dialled(t, path)
	if want := (broker.ListenerMessage{Pod: "p", Kind: HBONE, Cookie: cookie}); len(second.back) != 1 || second.back[0] != want {
		t.Errorf("handed back %+v", second.back)
	}
	// The same one again is no news, another one replaces it.
	second.send(broker.TypeListener, broker.ListenerMessage{Pod: "p", Kind: HBONE, Cookie: cookie}, fd)
	other, otherCookie, _ := listenSocket(t)
	second.send(broker.TypeListener, broker.ListenerMessage{Pod: "p", Kind: HBONE, Cookie: otherCookie}, other)
	if e := event(t, b); e.Listener == nil || e.Listener.Cookie() != otherCookie {
		t.Errorf("event %+v", e)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the replaced listener: %v", err)
	}
	second.send(broker.TypePodDraining, broker.PodMessage{Pod: "p"})
	if e := event(t, b); !e.Draining {
		t.Errorf("event %+v", e)
	}
	second.send(broker.TypePodGone, broker.PodMessage{Pod: "p"})
	if e := event(t, b); !e.Gone || e.Pod != "p" {
		t.Errorf("event %+v", e)
	}
	if third := dialled(t, path); len(third.back) != 0 {
		t.Errorf("handed back %+v of a gone pod", third.back)
	}
}

// TestReopen: listeners that were closed here are asked for, and come again; nothing else is asked.
func TestReopen(t *testing.T) {
	b, path := started(t)
	f := dialled(t, path)
	fd, cookie, at := listenSocket(t)
	asked := make(chan string, 16)
	send := func(kind Kind) {
		f.send(broker.TypeListener, broker.ListenerMessage{Pod: "p", Kind: kind, Cookie: cookie}, fd)
	}
	go func() {
		for {
			m, _, err := f.conn.Recv()
			if err != nil {
				close(asked)
				return
			}
			var p broker.PodMessage
			if m.Type == broker.TypeListenersRequest && m.Into(&p) == nil {
				asked <- p.Pod
			}
			if m.Type == broker.TypePodDrained {
				asked <- "drained"
			}
		}
	}()
	wantNone := func(what string) {
		t.Helper()
		b.Drained("mark") // what was said before comes before
		if got := <-asked; got != "drained" {
			t.Errorf("%s: the listeners of %q are asked for", what, got)
		}
	}
	b.Reopen("p")
	wantNone("a pod that is not here")
	send(HBONE)
	l := event(t, b).Listener
	b.Reopen("p")
	wantNone("a listener that is open")
	l.Close()
	b.Reopen("q")
	wantNone("another pod")
	b.Reopen("p")
	if got := <-asked; got != "p" {
		t.Fatalf("asked %q", got)
	}
	send(HBONE)
	again := event(t, b).Listener
	if again == nil || again.Cookie() != cookie {
		t.Fatalf("it did not come again: %+v", again)
	}
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a, err := again.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	b.Reopen("p")
	wantNone("once it has come again")
	send(Plaintext)
	event(t, b)
	f.send(broker.TypePodDraining, broker.PodMessage{Pod: "p"})
	event(t, b)
	b.Reopen("p")
	wantNone("one that was closed at the broker's word")
	f.send(broker.TypePodGone, broker.PodMessage{Pod: "p"})
	event(t, b)
	b.Reopen("p")
	wantNone("a pod that is gone")
}

func TestConnectionsEndAsTheyShould(t *testing.T) {
	b, path := started(t)
	f := dialled(t, path)
	fd, cookie, at := listenSocket(t)
	f.send(broker.TypeListener, broker.ListenerMessage{Pod: "p", Kind: Plaintext, Cookie: cookie}, fd)
	l := event(t, b).Listener
	go f.serve()
	for name, tt := range map[string]struct {
		end  func(*Conn) error
		want error
	}{
		"close":         {(*Conn).Close, syscall.ECONNRESET},
		"reset":         {(*Conn).Reset, syscall.ECONNRESET},
		"orderly":       {func(c *Conn) error { return errors.Join(c.Orderly(), c.Close()) }, io.EOF},
		"orderly reset": {func(c *Conn) error { return errors.Join(c.Orderly(), c.Reset()) }, syscall.ECONNRESET},
		"half":          {(*Conn).CloseWrite, io.EOF},
	} {
		for _, side := range []string{"dialled", "accepted"} {
			d, err := b.Dial(t.Context(), "p", at, netip.AddrPort{})
			if err != nil {
				t.Fatal(err)
			}
			a, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if a.RemoteAddrPort() != d.LocalAddrPort() || a.LocalAddrPort() != at || d.RemoteAddrPort() != at {
				t.Errorf("addresses %v-%v, %v-%v", d.LocalAddrPort(), d.RemoteAddrPort(), a.LocalAddrPort(), a.RemoteAddrPort())
			}
			if dst, err := a.OriginalDestination(); err != nil || dst != at {
				t.Errorf("destination %v, %v", dst, err)
			}
			ending, reading := d, a
			if side == "accepted" {
				ending, reading = a, d
			}
			if err := tt.end(ending); err != nil {
				t.Errorf("%s, %s: %v", name, side, err)
			}
			if _, err := reading.Read(make([]byte, 1)); !errors.Is(err, tt.want) {
				t.Errorf("%s, %s: the other end read %v, want %v", name, side, err, tt.want)
			}
			d.Close()
			a.Close()
		}
	}
}

func TestOutboundWithoutDestination(t *testing.T) {
	b, path := started(t)
	f := dialled(t, path)
	fd, cookie, at := listenSocket(t)
	f.send(broker.TypeListener, broker.ListenerMessage{Pod: "p", Kind: Outbound, Cookie: cookie}, fd)
	l := event(t, b).Listener
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if dst, err := a.OriginalDestination(); err == nil {
		t.Errorf("destination %v out of nothing", dst)
	}
}

func TestDialErrors(t *testing.T) {
	b, path := started(t, WithWait(50*time.Millisecond))
	if _, err := b.Dial(t.Context(), "p", netip.MustParseAddrPort("127.0.0.1:1"), netip.AddrPort{}); !errors.Is(err, ErrNoSocket) {
		t.Errorf("without a broker: %v", err)
	}
	if _, err := b.ReadFile(t.Context(), "token"); !errors.Is(err, ErrNoSocket) {
		t.Errorf("file without a broker: %v", err)
	}
	if _, err := b.Unix(t.Context(), "zds"); !errors.Is(err, ErrNoSocket) {
		t.Errorf("unix connection without a broker: %v", err)
	}
	f := dialled(t, path)
	go f.serve()
	testutil.Eventually(t, 5*time.Second, "refusal", func() bool {
		_, err := b.Dial(t.Context(), "p", netip.MustParseAddrPort("127.0.0.1:1"), netip.AddrPort{})
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	// The client's address takes the kernel programs; without them the dial fails rather than hide it.
	if _, err := b.Dial(t.Context(), "p", netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("192.0.2.1:1")); !errors.Is(err, syscall.ENOPROTOOPT) {
		t.Errorf("client address without programs: %v", err)
	}
	if _, err := b.Dial(t.Context(), "p", netip.AddrPort{}, netip.AddrPort{}); err == nil {
		t.Error("dialled nowhere")
	}
	// A dial that is given up ends at once.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	silent, _, at := listenSocket(t)
	_ = unix.Listen(silent, 0)
	for range 3 { // fills the backlog, then SYNs go unanswered
		c, err := b.Dial(ctx, "p", at, netip.AddrPort{})
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("given up: %v", err)
		}
		if c != nil {
			defer c.Close()
		}
	}
}

func TestCopyCarriesEverything(t *testing.T) {
	b, path := started(t)
	f := dialled(t, path)
	fd, cookie, at := listenSocket(t)
	f.send(broker.TypeListener, broker.ListenerMessage{Pod: "p", Kind: Plaintext, Cookie: cookie}, fd)
	l := event(t, b).Listener
	go f.serve()
	pair := func() (*Conn, *Conn) {
		d, err := b.Dial(t.Context(), "p", at, netip.AddrPort{})
		if err != nil {
			t.Fatal(err)
		}
		a, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close(); a.Close() })
		return d, a
	}
	app, in := pair()
	out, server := pair()
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(out, in)
		copied <- errors.Join(err, out.CloseWrite())
	}()
	const size = 8 << 20
	go func() {
		_, _ = app.Write(make([]byte, size))
		_ = app.CloseWrite()
	}()
	if n, err := io.Copy(io.Discard, server); n != size || err != nil {
		t.Errorf("%d bytes of %d, %v", n, size, err)
	}
	if err := <-copied; err != nil {
		t.Error(err)
	}
	// A reset comes through a copy as one.
	go func() { _ = server.Reset() }()
	if _, err := io.Copy(in, out); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("copy from a reset connection: %v", err)
	}
}

func TestQuestionsAreAskedAgain(t *testing.T) {
	b, path := started(t)
	first := dialled(t, path)
	answer := make(chan string, 1)
	go func() {
		data, err := b.ReadFile(context.Background(), "token")
		if err != nil {
			data = []byte(err.Error())
		}
		answer <- string(data)
	}()
	if m, _, err := first.conn.Recv(); err != nil || m.Type != broker.TypeFileRequest {
		t.Fatalf("message %d, %v", m.Type, err)
	}
	first.conn.Close() // dies with the question
	second := dialled(t, path)
	m, _, err := second.conn.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var r broker.NameRequest
	if err := m.Into(&r); err != nil || r.Name != "token" {
		t.Fatalf("%+v, %v", r, err)
	}
	second.send(broker.TypeFile, broker.NameReply{ID: r.ID + 99, Data: []byte("not asked")})
	second.send(broker.TypeFile, broker.NameReply{ID: r.ID, Data: []byte("secret")})
	if got := <-answer; got != "secret" {
		t.Errorf("read %q", got)
	}
}

// TestTheBrokerThatIsLeftIsAsked: sockets asked of a connection that ended are asked of the one that is left.
func TestTheBrokerThatIsLeftIsAsked(t *testing.T) {
	b, path := started(t)
	left := dialled(t, path)
	testutil.Eventually(t, 5*time.Second, "not connected", b.Connected)
	ends := dialled(t, path)
	fd, _, at := listenSocket(t)
	_ = fd
	dialledIn := make(chan error, 1)
	go func() {
		c, err := b.Dial(context.Background(), "p", at, netip.AddrPort{})
		if c != nil {
			c.Close()
		}
		dialledIn <- err
	}()
	if m, _, err := ends.conn.Recv(); err != nil || m.Type != broker.TypeSocketsRequest {
		t.Fatalf("message %d, %v", m.Type, err)
	}
	ends.conn.Close()
	go left.serve()
	if err := <-dialledIn; err != nil {
		t.Error(err)
	}
}

func TestBrokerOfAnotherUserIsRefused(t *testing.T) {
	b, path := started(t, WithBrokerUID(uint32(os.Getuid())+1))
	c, err := broker.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.Send(broker.TypeHello, broker.Hello{Role: "broker"})
	if m, _, err := c.Recv(); err != io.EOF {
		t.Errorf("answered with message %d, %v", m.Type, err)
	}
	if b.Connected() {
		t.Error("connected")
	}
}

func TestStrangeBrokerMessagesEndTheConnection(t *testing.T) {
	for name, tt := range map[string]struct {
		t    broker.Type
		body any
	}{
		"ztunnel's own":      {broker.TypeSocketsRequest, broker.SocketsRequest{}},
		"agent's":            {broker.TypeCaptureState, broker.State{}},
		"another body":       {broker.TypePodGone, broker.Hello{Role: "x"}},
		"kind out of bounds": {broker.TypeListener, broker.ListenerMessage{Pod: "p", Kind: 7}},
	} {
		b, path := started(t)
		f := dialled(t, path)
		fd, _, _ := listenSocket(t)
		var fds []int
		if tt.t == broker.TypeListener {
			fds = []int{fd}
		}
		f.send(tt.t, tt.body, fds...)
		if _, _, err := f.conn.Recv(); err != io.EOF {
			t.Errorf("%s: %v", name, err)
		}
		testutil.Eventually(t, 5*time.Second, name+": still connected", func() bool { return !b.Connected() })
	}
}

// A connection that outlives its pod may still dial. Nothing is left of that.
func TestDialFromAPodThatIsGone(t *testing.T) {
	b, path := started(t)
	f := dialled(t, path)
	go func() {
		for {
			m, _, err := f.conn.Recv()
			if err != nil {
				return
			}
			var r broker.SocketsRequest
			if m.Type == broker.TypeSocketsRequest && m.Into(&r) == nil {
				_ = f.conn.Send(broker.TypeSockets, broker.Sockets{Pod: r.Pod, Asked: r.Count, Error: "no such pod", RetryAfter: 50})
			}
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := b.Dial(ctx, "gone", netip.MustParseAddrPort("10.0.0.1:80"), netip.AddrPort{}); err == nil {
		t.Fatal("dialled")
	}
	testutil.Eventually(t, 10*time.Second, "its pool lives on, and asks", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.pools["gone"] == nil
	})
}

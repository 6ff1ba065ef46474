// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	promtest "github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/cni"
	"github.com/warren-mesh/warren/tests/testutil"
)

const strangerEnv = "WARREN_CNI_TEST_STRANGER"

// TestMain lets the test binary be a process of another user.
func TestMain(m *testing.M) {
	if path := os.Getenv(strangerEnv); path != "" {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: path})
		if err == nil {
			_ = cni.Send(c, question(cni.Del), nil)
			var r cni.Reply
			_, err = cni.Receive(c, &r)
		}
		fmt.Println(err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// pretend answers as it is told, and notes what it was asked.
type pretend struct {
	mu      sync.Mutex
	asked   []cni.Request
	inodes  []uint64
	answer  cni.Reply
	hold    bool // until the asker has gone
	dropped chan struct{}
}

func (p *pretend) note(r cni.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, r)
}

func (p *pretend) seen() ([]cni.Request, []uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked), slices.Clone(p.inodes)
}

func (p *pretend) Announce(ctx context.Context, r cni.Request, netns *os.File) cni.Reply {
	defer netns.Close()
	var st unix.Stat_t
	_ = unix.Fstat(int(netns.Fd()), &st)
	p.note(r)
	p.mu.Lock()
	p.inodes = append(p.inodes, st.Ino)
	p.mu.Unlock()
	if p.hold {
		<-ctx.Done()
		close(p.dropped)
	}
	return p.answer
}

func (p *pretend) Ended(_ context.Context, r cni.Request) { p.note(r) }

func (p *pretend) Check(_ context.Context, r cni.Request) cni.Reply { p.note(r); return p.answer }

func question(op cni.Op) cni.Request {
	r := cni.Request{Version: cni.Version, Op: op, Pod: cni.Pod{Namespace: "shop", Name: "db", UID: "u1"}, Container: "c"}
	if op == cni.Add {
		r.Addresses, r.WaitMillis = []netip.Addr{netip.MustParseAddr("10.0.0.1")}, 60_000
	}
	return r
}

func serve(t *testing.T, p *pretend) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wc") // short: a unix socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "agent-1-cni.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	t.Cleanup(func() {
		if problems, err := promtest.GatherAndLint(reg); err != nil || len(problems) > 0 {
			t.Errorf("metrics: %v %v", problems, err)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- NewServer(p, slog.New(slog.DiscardHandler), reg).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return path
}

func dialServer(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func openFile(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestServerAnswers(t *testing.T) {
	p := &pretend{answer: cni.Reply{Result: cni.Captured}}
	path := serve(t, p)
	netns := openFile(t, "/proc/self/ns/net")
	for _, op := range []cni.Op{cni.Add, cni.Check, cni.Del} {
		c := dialServer(t, path)
		file, want := (*os.File)(nil), cni.Captured
		switch op {
		case cni.Add:
			file = netns
		case cni.Del:
			want = cni.Done
		}
		if err := cni.Send(c, question(op), file); err != nil {
			t.Fatal(err)
		}
		var r cni.Reply
		if _, err := cni.Receive(c, &r); err != nil || r.Result != want {
			t.Errorf("%s: %+v, %v", op, r, err)
		}
	}
	var st unix.Stat_t
	_, inodes := p.seen()
	if err := unix.Fstat(int(netns.Fd()), &st); err != nil || len(inodes) != 1 || inodes[0] != st.Ino {
		t.Errorf("namespaces handed over: %v, want %d", inodes, st.Ino)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v", st.Mode(), err)
	}
}

// TestServerRefuses what is no question, and goes on.
func TestServerRefuses(t *testing.T) {
	p := &pretend{answer: cni.Reply{Result: cni.Captured}}
	path := serve(t, p)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket, other := os.NewFile(uintptr(pair[0]), "socket"), os.NewFile(uintptr(pair[1]), "socket")
	defer socket.Close()
	defer other.Close()
	netns := openFile(t, "/proc/self/ns/net")
	with := func(change func(*cni.Request)) cni.Request {
		r := question(cni.Add)
		change(&r)
		return r
	}
	tests := []struct {
		name    string
		message any
		raw     []byte
		files   []*os.File
		want    string // part of the answer's error
	}{
		{name: "a file", message: question(cni.Add), files: []*os.File{openFile(t, "/etc/passwd")}, want: "no namespace"},
		{name: "a socket", message: question(cni.Add), files: []*os.File{socket}, want: "no namespace"},
		{name: "a namespace of mounts", message: question(cni.Add), files: []*os.File{openFile(t, "/proc/self/ns/mnt")}, want: "not of the network"},
		{name: "no file", message: question(cni.Add), want: "0 files"},
		{name: "two files", message: question(cni.Add), files: []*os.File{netns, netns}, want: "2 files"},
		{name: "a hundred files", message: question(cni.Add), files: make([]*os.File, 100), want: "more than 2 files"},
		{name: "a file with DEL", message: question(cni.Del), files: []*os.File{netns}, want: "1 files"},
		{name: "another version", message: with(func(r *cni.Request) { r.Version = 2 }), files: []*os.File{netns}, want: "unknown protocol version 2"},
		{name: "no version", raw: []byte(`{}`), want: "unknown protocol version 0"},
		{name: "no JSON", raw: []byte("\x00\x01\x02"), want: "malformed"},
		{name: "too long", raw: []byte(`{"version":1,"container":"` + strings.Repeat("x", cni.MaxPacket) + `"}`), want: "more than 65536 bytes"},
		{name: "an unknown operation", message: with(func(r *cni.Request) { r.Op = "mount" }), files: []*os.File{netns}, want: "unknown operation"},
		{name: "a path for a name", message: with(func(r *cni.Request) { r.Pod.UID = "../../x" }), files: []*os.File{netns}, want: "no uid"},
	}
	before := descriptors(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := dialServer(t, path)
			b := test.raw
			if test.message != nil {
				b = encode(t, test.message)
			}
			var fds []int
			for _, f := range test.files {
				if f == nil {
					f = netns
				}
				fds = append(fds, int(f.Fd()))
			}
			var oob []byte
			if len(fds) > 0 {
				oob = unix.UnixRights(fds...)
			}
			if _, _, err := c.WriteMsgUnix(b, oob, nil); err != nil {
				t.Fatal(err)
			}
			var r cni.Reply
			if _, err := cni.Receive(c, &r); err != nil || r.Result != cni.Failed || !strings.Contains(r.Error, test.want) {
				t.Errorf("%+v, %v; want %q", r, err, test.want)
			}
			c.Close()
		})
	}
	if asked, _ := p.seen(); len(asked) > 0 {
		t.Errorf("went through: %+v", asked)
	}
	testutil.Eventually(t, 5*time.Second, "all descriptors are closed", func() bool { return descriptors(t) <= before })
	// Who says nothing is let go in time, and keeps nobody waiting meanwhile.
	silent := dialServer(t, path)
	c := dialServer(t, path)
	if err := cni.Send(c, question(cni.Del), nil); err != nil {
		t.Fatal(err)
	}
	var r cni.Reply
	if _, err := cni.Receive(c, &r); err != nil || r.Result != cni.Done {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := silent.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("who says nothing is kept")
	}
}

func encode(t *testing.T, message any) []byte {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	f := os.NewFile(uintptr(pair[0]), "pair")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := cni.Send(c.(*net.UnixConn), message, nil); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, cni.MaxPacket)
	n, err := unix.Read(pair[1], b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

func descriptors(t *testing.T) int {
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(es)
}

// TestServerLetsGoOfThePluginThatWasKilled: its question is not asked on.
func TestServerLetsGoOfThePluginThatWasKilled(t *testing.T) {
	p := &pretend{hold: true, dropped: make(chan struct{})}
	path := serve(t, p)
	c := dialServer(t, path)
	if err := cni.Send(c, question(cni.Add), openFile(t, "/proc/self/ns/net")); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, 5*time.Second, "asked", func() bool { asked, _ := p.seen(); return len(asked) == 1 })
	c.Close()
	select {
	case <-p.dropped:
	case <-time.After(5 * time.Second):
		t.Error("still waits for it")
	}
}

func TestServerServesRootOnly(t *testing.T) {
	testutil.Privileged(t)
	p := &pretend{}
	path := serve(t, p)
	if err := os.Chmod(path, 0o666); err != nil { // the mode is one guard; this is about the other
		t.Fatal(err)
	}
	exe := filepath.Join(filepath.Dir(path), "stranger")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), strangerEnv+"="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), io.EOF.Error()) && !strings.Contains(string(out), "reset") && !strings.Contains(string(out), "broken pipe") {
		t.Errorf("another user was told: %s", out)
	}
	if asked, _ := p.seen(); len(asked) > 0 {
		t.Error("another user was served")
	}
}

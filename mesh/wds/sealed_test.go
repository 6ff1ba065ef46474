// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/warren-mesh/warren/mesh"
)

const sealedEnv = "WDS_TEST_SEALED"

// TestSealed runs a client in a process that is killed when it makes a socket or opens a file: all it has
// is a connection that was there before, as a ztunnel's come from its broker.
func TestSealed(t *testing.T) {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skipf("no filter for %s", runtime.GOARCH)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	s := startServer(t)
	s.store.Apply(manyWorkloads(2000)...)
	g := grpc.NewServer()
	s.Register(g)
	l := &oneConn{conn: make(chan net.Conn, 1), done: make(chan struct{})}
	l.conn <- conn
	done := make(chan struct{})
	go func() { defer close(done); g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-done })

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), sealedEnv+"=1")
	cmd.ExtraFiles = []*os.File{theirs}
	out, err := cmd.CombinedOutput()
	theirs.Close()
	if err != nil || string(out) != "ready 2000\n" {
		t.Errorf("sealed client: %v\n%s", err, out)
	}
}

// sealedMain is the child's whole program.
func sealedMain() {
	if os.Getenv(sealedEnv) == "" {
		return
	}
	conn, err := net.FileConn(os.NewFile(3, "server"))
	if err != nil {
		panic(err)
	}
	if err := forbid(unix.SYS_SOCKET, unix.SYS_OPENAT, unix.SYS_CONNECT, unix.SYS_BIND); err != nil {
		panic(err)
	}
	store, c := mesh.NewStore(), NewClient(ClientConfig{})
	first := true
	go c.Run(context.Background(), func(context.Context) (net.Conn, error) {
		if !first {
			return nil, net.ErrClosed
		}
		first = false
		return conn, nil
	}, store)
	select {
	case <-c.Ready():
	case <-time.After(patience):
	}
	n := 0
	store.Snapshot().Workloads(func(*mesh.Workload) bool { n++; return true })
	fmt.Println("ready", n)
	os.Exit(0)
}

// forbid kills the process, all its threads, at any of the system calls.
func forbid(calls ...uint32) error {
	prog := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}}
	for _, nr := range calls {
		prog = append(prog,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jf: 1},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_KILL_PROCESS})
	}
	prog = append(prog, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return fmt.Errorf("install filter: %w", errno)
	}
	return nil
}

// oneConn is a listener of one connection that is there already.
type oneConn struct {
	conn chan net.Conn
	done chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error   { close(l.done); return nil }
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errSandboxGone is returned by calls to a sandbox whose process has ended.
var errSandboxGone = errors.New("the sandbox's process is gone")

// sandbox is a network, mount and hostname namespace with one process in them, in a cgroup of its own. A pod, a node
// and the wire between the nodes are each one. Safe for concurrent use.
type sandbox struct {
	name string
	cmd  *exec.Cmd
	conn *net.UnixConn
	done chan struct{} // closed when the process has been waited for

	mu     sync.Mutex
	lastID uint64
	calls  map[uint64]chan result
	gone   bool
}

// result is a reply with the file descriptors beside it.
type result struct {
	reply
	fds []int
}

// newSandbox starts the process in the cgroup; its words go to the log file.
func newSandbox(name, cgroup, log string, env ...string) (*sandbox, error) {
	if !hooked {
		return nil, errors.New("netns.Init did not run (call netns.Main from TestMain)")
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), name), os.NewFile(uintptr(pair[1]), name)
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	s := &sandbox{name: name, conn: conn.(*net.UnixConn), done: make(chan struct{}), calls: map[uint64]chan result{}}
	if err := s.start(cgroup, log, theirs, env); err != nil {
		conn.Close()
		return nil, fmt.Errorf("start sandbox %s: %w", name, err)
	}
	go s.read()
	go func() {
		_ = s.cmd.Wait()
		close(s.done)
	}()
	return s, nil
}

func (s *sandbox) start(cgroup, log string, control *os.File, env []string) error {
	dir, err := os.Open(cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	s.cmd = &exec.Cmd{
		Path:       "/proc/self/exe",
		Args:       []string{"pause", s.name},
		Env:        append(env, roleVariable+"="+roleInside, "PATH="+os.Getenv("PATH"), "GOMAXPROCS=2"),
		Stdout:     out,
		Stderr:     out,
		ExtraFiles: []*os.File{control},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS,
			UseCgroupFD: true,
			CgroupFD:    int(dir.Fd()),
			Setsid:      true,
		},
	}
	return s.cmd.Start()
}

func (s *sandbox) pid() int { return s.cmd.Process.Pid }

// read hands replies to their callers until the process is gone.
func (s *sandbox) read() {
	for {
		var r result
		fds, err := receive(s.conn, &r.reply)
		if err != nil {
			break
		}
		r.fds = fds
		s.mu.Lock()
		c := s.calls[r.ID]
		delete(s.calls, r.ID)
		s.mu.Unlock()
		if c == nil { // cancelled meanwhile
			closeAll(fds)
			continue
		}
		c <- r
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	for id, c := range s.calls {
		close(c)
		delete(s.calls, id)
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// call sends a request and waits for its reply. The caller owns the file descriptors.
func (s *sandbox) call(ctx context.Context, r request) ([]int, error) {
	c := make(chan result, 1)
	s.mu.Lock()
	if s.gone {
		s.mu.Unlock()
		return nil, errSandboxGone
	}
	s.lastID++
	r.ID = s.lastID
	s.calls[r.ID] = c
	s.mu.Unlock()
	if err := send(s.conn, r); err != nil {
		s.forget(r.ID)
		return nil, fmt.Errorf("ask sandbox %s: %w", s.name, err)
	}
	select {
	case got, ok := <-c:
		if !ok {
			return nil, errSandboxGone
		}
		return got.fds, got.error(r.Network)
	case <-ctx.Done():
		if s.forget(r.ID) {
			_ = send(s.conn, request{ID: r.ID, Op: "cancel"})
		} else if got, ok := <-c; ok { // it was on its way already
			closeAll(got.fds)
		}
		return nil, ctx.Err()
	}
}

// forget removes a call and says whether it was still open.
func (s *sandbox) forget(id uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, open := s.calls[id]
	delete(s.calls, id)
	return open
}

// do calls without a wish for file descriptors, and within 5 s.
func (s *sandbox) do(r request) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := s.call(ctx, r)
	if err != nil {
		return fmt.Errorf("sandbox %s: %s: %w", s.name, r.Op, err)
	}
	return nil
}

// close ends the process and waits for it. Sockets made in the sandbox live on in whoever holds them.
func (s *sandbox) close() {
	s.conn.Close()
	_ = s.cmd.Process.Kill()
	<-s.done
}

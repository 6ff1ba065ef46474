// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespace is an open network namespace.
type namespace struct {
	file   *os.File
	inode  uint64
	cookie uint64
}

// openNamespace takes over the file, also when it fails.
func openNamespace(f *os.File) (*namespace, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("open network namespace: %w", os.NewSyscallError("fstat", err))
	}
	n := &namespace{file: f, inode: st.Ino}
	err := n.do(func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		defer unix.Close(fd)
		n.cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return os.NewSyscallError("getsockopt", err)
	})
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return n, nil
}

// is reports whether the file is this namespace.
func (n *namespace) is(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Ino == n.inode
}

// fd is for the goroutine that also closes the namespace.
func (n *namespace) fd() int { return int(n.file.Fd()) }

func (n *namespace) close() { n.file.Close() }

// enter moves the calling thread. Control keeps the descriptor open meanwhile: a number that was closed and
// given to another file would lead into the wrong namespace.
func (n *namespace) enter() error {
	rc, err := n.file.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := rc.Control(func(fd uintptr) { serr = unix.Setns(int(fd), unix.CLONE_NEWNET) }); err != nil {
		return err
	}
	return os.NewSyscallError("setns", serr)
}

// do runs f on a thread of its own in the namespace.
func (n *namespace) do(f func() error) error {
	done := make(chan error, 1)
	ownThread(func() {
		if err := n.enter(); err != nil {
			done <- err
			return
		}
		done <- f()
	})
	return <-done
}

// ownThread runs f on a thread that ends with it: one that has been elsewhere is never given back to the
// scheduler. The process's main thread can't end, the scheduler only parks it, and its namespace would live as long
// as the process: while it is held here, f gets another.
func ownThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f() // and never unlock
			return
		}
		defer runtime.UnlockOSThread()
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			f()
		}()
		<-done
	}()
}

// visitor is a thread that goes from namespace to namespace, for work that is too frequent for a thread each.
// Where it stands, the namespace lives on: home sends it away.
type visitor struct {
	jobs chan func()
	quit chan struct{}
	at   *namespace // where the thread is, nil at first
}

var errVisitorEnded = errors.New("the connection it worked for ended")

// newVisitor starts the thread; close ends it.
func newVisitor() *visitor {
	v := &visitor{jobs: make(chan func()), quit: make(chan struct{})}
	ownThread(func() {
		for {
			select {
			case f := <-v.jobs:
				f()
			case <-v.quit:
				return
			}
		}
	})
	return v
}

func (v *visitor) close() { close(v.quit) }

func (v *visitor) run(f func() error) error {
	done := make(chan error, 1)
	select {
	case v.jobs <- func() { done <- f() }:
		return <-done
	case <-v.quit:
		return errVisitorEnded
	}
}

// do runs f in the namespace, one at a time.
func (v *visitor) do(n *namespace, f func()) error {
	return v.run(func() error {
		if v.at != n {
			if err := n.enter(); err != nil {
				return err
			}
			v.at = n
		}
		f()
		return nil
	})
}

// home sends the thread to the host's namespace if it is in n.
func (v *visitor) home(n, host *namespace) error {
	return v.run(func() error {
		if v.at != n {
			return nil
		}
		v.at = host
		return host.enter()
	})
}

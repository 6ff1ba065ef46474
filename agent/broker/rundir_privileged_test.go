// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/tests/testutil"
)

// asZtunnel runs f on a thread that is ztunnel's user and group, without capabilities.
func asZtunnel(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock
		id := uintptr(wire.ZtunnelUID)
		_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0)
		if errno == 0 {
			_, _, errno = unix.RawSyscall(unix.SYS_SETRESGID, id, id, id)
		}
		if errno == 0 {
			_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, id, id, id)
		}
		if errno != 0 {
			done <- errno
			return
		}
		done <- f()
	}()
	return <-done
}

func TestRunDirectory(t *testing.T) {
	testutil.Privileged(t)
	top, err := os.MkdirTemp("", "wb") // a short path, as sockets need
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(top) })
	must(t, os.Chmod(top, 0o755))
	dir := filepath.Join(top, "run")
	must(t, makeRunDir(dir, wire.ZtunnelUID))
	must(t, makeStateDir(filepath.Join(dir, "broker")))
	l, err := tryLock(dir)
	must(t, err)
	defer l.release()

	own := filepath.Join(dir, "ztunnel-a.sock")
	must(t, asZtunnel(func() error {
		l, err := wire.Listen(own)
		if err == nil {
			err = errors.Join(l.Close(), os.Remove(own))
		}
		return err
	}))
	for _, name := range []string{"broker", "broker.lock"} {
		err := asZtunnel(func() error { return os.Rename(filepath.Join(dir, name), filepath.Join(dir, "x")) })
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("ztunnel takes %s away: %v", name, err)
		}
	}
}

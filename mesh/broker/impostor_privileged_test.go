// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/tests/testutil"
)

// listenAs makes a socket that listens as another user: the kernel notes the one who calls listen.
func listenAs(t *testing.T, uid int, path string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread is another user's now
		keep := ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
			done <- errno
			return
		}
		done <- unix.Listen(fd, 8)
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestClientRefusesAnImpostor(t *testing.T) {
	testutil.Privileged(t)
	dir := t.TempDir()
	f := newFakeBroker(t, dir, "1")
	listenAs(t, ZtunnelUID, filepath.Join(dir, SocketName("broker", "2", ""))) // the newest
	c := runClient(t, dir)
	c.Sync()
	f.accept()
	f.expect("sync")
}

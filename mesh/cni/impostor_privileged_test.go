// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/tests/testutil"
)

// TestAskRefusesAnImpostor: ztunnel's group may make sockets beside the agent's, and must not say which pods start.
func TestAskRefusesAnImpostor(t *testing.T) {
	testutil.Privileged(t)
	dir := t.TempDir()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, "agent-9-cni.sock")}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { // the kernel notes the one who calls listen
		runtime.LockOSThread() // and never unlock: the thread is another user's now
		keep := ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, broker.ZtunnelUID, keep); errno != 0 {
			done <- errno
			return
		}
		done <- unix.Listen(fd, 8)
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := Ask(t.Context(), dir, request(), nil, 0); !errors.Is(err, ErrNoAgent) || !strings.Contains(err.Error(), "user 65532") {
		t.Errorf("%v", err)
	}
	agent(t, dir, "1", func(Request) *Reply { return &Reply{Version: Version, Result: Outside} })
	if r, err := Ask(t.Context(), dir, request(), nil, time.Second); err != nil || r.Result != Outside {
		t.Errorf("the agent beside it: %+v, %v", r, err)
	}
}

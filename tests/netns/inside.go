// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// insideFD is where the process inside a sandbox finds its end of the socket pair.
const insideFD = 3

// reapVariable names a cgroup that is to be killed when the test process is gone: the wire's process does it, so that
// Warren's processes, which hold on to nothing of the test, don't outlive a crashed one.
const reapVariable = "WARREN_NETNS_REAP"

// insider is the process inside a sandbox: it makes sockets there and hands them out. It ends when the other end of
// its socket pair closes, so that no sandbox outlives the test process.
type insider struct {
	conn *net.UnixConn

	mu      sync.Mutex
	cancels map[uint64]context.CancelFunc
}

func inside() int {
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	f := os.NewFile(insideFD, "control")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		fmt.Fprintln(os.Stderr, "inside: no control socket:", err)
		return 1
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		fmt.Fprintln(os.Stderr, "inside: make mounts private:", err)
		return 1
	}
	in := &insider{conn: c.(*net.UnixConn), cancels: map[uint64]context.CancelFunc{}}
	for {
		var r request
		if _, err := receive(in.conn, &r); err != nil {
			if dir := os.Getenv(reapVariable); dir != "" {
				_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
			}
			return 0
		}
		if r.Op == "cancel" {
			in.cancel(r.ID)
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		in.mu.Lock()
		in.cancels[r.ID] = cancel
		in.mu.Unlock()
		go in.answer(ctx, r)
	}
}

func (in *insider) cancel(id uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if c := in.cancels[id]; c != nil {
		c()
		delete(in.cancels, id)
	}
}

func (in *insider) answer(ctx context.Context, r request) {
	defer in.cancel(r.ID)
	var err error
	switch r.Op {
	case "dial":
		err = in.dial(ctx, r)
	case "listen":
		err = in.listen(ctx, r)
	case "socket":
		err = in.socket(r)
	case "mount":
		err = os.NewSyscallError("mount", unix.Mount(r.Mount.Source, r.Mount.Target, r.Mount.Type, r.Mount.Flags, r.Mount.Data))
		if err == nil {
			err = in.ok(r)
		}
	case "sysctl":
		if err = writeSysctls(r.Sysctls); err == nil {
			err = in.ok(r)
		}
	case "mkdir":
		if err = os.MkdirAll(r.Path, 0o755); err == nil {
			err = in.ok(r)
		}
	case "hostname":
		if err = unix.Sethostname([]byte(r.Path)); err == nil {
			err = in.ok(r)
		}
	default:
		err = fmt.Errorf("inside: unknown operation %q", r.Op)
	}
	if err != nil {
		_ = send(in.conn, failure(r.ID, err))
	}
}

func (in *insider) ok(r request) error { return send(in.conn, reply{ID: r.ID}) }

func writeSysctls(values map[string]string) error {
	for path, v := range values {
		if err := os.WriteFile(filepath.Join("/proc/sys", path), []byte(v), 0); err != nil {
			return err
		}
	}
	return nil
}

// dial connects to the first of the name's addresses that answers. Names come from the sandbox's own /etc/hosts, read
// anew each time: Go's resolver would remember them for 5 s.
func (in *insider) dial(ctx context.Context, r request) error {
	addrs, err := resolve(r.Network, r.Address)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		var c net.Conn
		if c, err = dialer(r.Dial).DialContext(ctx, r.Network, a); err == nil {
			defer c.Close()
			return in.pass(r, c.(syscall.Conn))
		}
	}
	return err
}

func (in *insider) listen(ctx context.Context, r request) error {
	lc := net.ListenConfig{Control: control(r.Dial)}
	lc.SetMultipathTCP(r.Dial != nil && r.Dial.Multipath)
	if r.Network == "udp" || r.Network == "udp4" || r.Network == "udp6" {
		p, err := lc.ListenPacket(ctx, r.Network, r.Address)
		if err != nil {
			return err
		}
		defer p.Close()
		return in.pass(r, p.(syscall.Conn))
	}
	l, err := lc.Listen(ctx, r.Network, r.Address)
	if err != nil {
		return err
	}
	defer l.Close()
	return in.pass(r, l.(syscall.Conn))
}

func (in *insider) socket(r request) error {
	fd, err := unix.Socket(r.Socket[0], r.Socket[1]|unix.SOCK_CLOEXEC, r.Socket[2])
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	return send(in.conn, reply{ID: r.ID}, fd)
}

// pass sends the socket to the other side; our own descriptor is closed by the caller, which leaves the socket open.
func (in *insider) pass(r request, c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = send(in.conn, reply{ID: r.ID}, int(fd)) }); err != nil {
		return err
	}
	return sent
}

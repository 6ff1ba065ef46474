// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// errLocked means that another broker works on this node.
var errLocked = errors.New("another broker holds the lock")

// lock is held by the one broker that works. The kernel lets go of it when the process ends.
type lock struct{ file *os.File }

// tryLock fails with errLocked when another broker has it.
func tryLock(dir string) (*lock, error) {
	f, err := os.OpenFile(filepath.Join(dir, "broker.lock"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	rc, err := f.SyscallConn()
	if err == nil {
		cerr := rc.Control(func(fd uintptr) { err = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) })
		err = errors.Join(err, cerr)
	}
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("lock: %w", os.NewSyscallError("flock", err))
	}
	return &lock{file: f}, nil
}

// waitLock tries until it has the lock or ctx ends.
func waitLock(ctx context.Context, dir string, every time.Duration) (*lock, error) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		l, err := tryLock(dir)
		if !errors.Is(err, errLocked) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-t.C:
		}
	}
}

func (l *lock) release() { l.file.Close() }

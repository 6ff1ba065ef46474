// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/warren-mesh/warren/tests/cluster/machine"
)

// Down ends the cluster and removes everything of it.
func (c *Cluster) Down() error { return Sweep(c.options.Name) }

// Sweep removes what a cluster of that name left: processes, cgroups and files; mounts and links go with the processes.
// It goes by the cgroups, so that it needs no state of the run that made them. It is no error if there is nothing.
func Sweep(name string) error {
	if err := (Options{Name: name}).withDefaults().validate(); err != nil {
		return fmt.Errorf("end cluster: %w", err)
	}
	unlock, err := lockState(context.Background(), name)
	if err != nil {
		return err
	}
	defer unlock()
	return sweep(name)
}

func sweep(name string) error {
	dir, err := stateDir(name)
	if err != nil {
		return err
	}
	dirs, err := machine.FindCgroups(cgroupPrefix(name))
	if err != nil {
		return err
	}
	if err := machine.RemoveCgroups(dirs, 20*time.Second); err != nil {
		return err
	}
	// A mount in a dying namespace keeps directories busy for a moment.
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := os.RemoveAll(dir)
		if err == nil || !errors.Is(err, syscall.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}

func stateDir(name string) (string, error) {
	cache, err := Cache()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "run", name), nil
}

// lockState keeps two processes from starting or ending a cluster of one name at the same time.
func lockState(ctx context.Context, name string) (unlock func(), err error) {
	dir, err := stateDir(name)
	if err != nil {
		return nil, err
	}
	return lockFile(ctx, dir+".lock", nil)
}

// lockFile waits for an exclusive lock on a file, which it creates; the kernel lets go of it when its holder dies. waiting,
// if not nil, is called once when another has it.
func lockFile(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	for waited := false; ; waited = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !waited && waiting != nil {
			waiting()
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("wait for the holder of %s: %w", path, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

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

	"github.com/warren-mesh/warren/bpf"
)

// Remove takes everything brokers left off a node: programs, pins, sysctls of captured pods, the run directory. Captured
// pods go on, in plaintext. A broker that works is waited for until ctx ends. Only Proc, RunDir, StateDir, CgroupRoot,
// BPFFS, HostNetns and Log of the configuration are read; where nothing is left it does nothing.
func Remove(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults()
	if _, err := os.Stat(cfg.RunDir); err == nil {
		l, err := waitLock(ctx, cfg.RunDir, 100*time.Millisecond)
		if err != nil {
			return fmt.Errorf("remove: a broker still works on this node (end it first): %w", err)
		}
		defer l.release()
	}
	restoreSysctls(cfg)
	if err := bpf.RemovePins(cfg.BPFFS); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	if err := errors.Join(os.RemoveAll(cfg.StateDir), emptyDir(cfg.RunDir)); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	cfg.Log.Info("nothing of the broker is left on this node")
	return nil
}

// restoreSysctls puts back what capture changed in pods that are still there. What fails dies with its pod.
func restoreSysctls(cfg Config) {
	s, err := loadState(cfg.StateDir)
	if err != nil {
		cfg.Log.Warn("sysctls of captured pods stay changed", "err", err)
		return
	}
	if len(s.Pods) == 0 {
		return
	}
	f, err := newFinder(cfg)
	if err != nil {
		cfg.Log.Warn("sysctls of captured pods stay changed", "err", err)
		return
	}
	defer f.host.close()
	for _, p := range s.Pods {
		pl, err := f.find(p.Capture, nil)
		if err != nil {
			cfg.Log.Info("captured pod is gone", "uid", p.Capture.UID, "err", err)
			continue
		}
		if pl.ns.cookie == p.Cookie {
			putBack(cfg, pl.ns, p.Sysctls)
		}
		pl.ns.close()
	}
}

// putBack writes the values of before in the namespace.
func putBack(cfg Config, ns *namespace, before map[string]string) {
	for name, value := range before {
		if err := ns.do(func() error { return writeSysctl(cfg.Proc, name, value) }); err != nil {
			cfg.Log.Warn("restore sysctl", "name", name, "err", err)
		}
	}
}

// emptyDir removes a directory. One that is a mount, as in a container, is only emptied.
func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	if rerr := os.Remove(dir); rerr != nil && !errors.Is(rerr, unix.EBUSY) {
		err = errors.Join(err, rerr)
	}
	return err
}

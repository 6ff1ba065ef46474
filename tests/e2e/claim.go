// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// claims are the files whose locks say which clusters are this process's. They end with it.
var claims sync.Map

// claim takes the name of a cluster for this process: a run on a cluster that ends with it bears no other beside it, which
// would start afresh by removing this one's. Runs that keep theirs may share it.
func claim(name string) error {
	if _, mine := claims.Load(name); mine {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "warren-e2e-"+name+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("claim cluster %s: %w", name, err)
	}
	how := unix.LOCK_EX
	if kept() {
		how = unix.LOCK_SH
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		err = os.NewSyscallError("flock", err)
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("another run has it (%s names another cluster)", clusterVariable)
		}
		return errors.Join(fmt.Errorf("claim cluster %s: %w", name, err), f.Close())
	}
	claims.Store(name, f)
	return nil
}

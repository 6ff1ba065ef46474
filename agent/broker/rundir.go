// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"fmt"
	"os"
)

// makeRunDir makes the directory of the sockets: root's, and writable by ztunnel's group. The set-group-id bit
// gives the sockets that group; the sticky bit keeps the group's hands off what root made there: sockets, the lock, the
// state. Owner and member of the group needs no capability for any of it.
func makeRunDir(dir string, gid int) error {
	if err := os.MkdirAll(dir, 0o770); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	if err := os.Chown(dir, -1, gid); err != nil {
		return fmt.Errorf("make run directory: %w (is %d among the broker's supplementary groups?)", err, gid)
	}
	// After the change of group, which clears the bit.
	if err := os.Chmod(dir, 0o770|os.ModeSetgid|os.ModeSticky); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	return nil
}

// makeStateDir makes the directory of the desired captures, the broker's alone.
func makeStateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	return nil
}

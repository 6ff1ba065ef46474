// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"
)

// ABI is the version of the pinned maps' layout, part of the pins' path. Programs of this version and the one
// before can be replaced by each other in place.
const ABI = 1

// Config says where a node's Datapath is attached and pinned.
type Config struct {
	// BPFFS is a mounted bpffs of this node alone; pins go below <BPFFS>/warren/v<ABI>.
	BPFFS string
	// Cgroup is the directory in cgroup2 whose descendants' sockets are seen: the node's pods cgroup, or the
	// root. The broker itself must live below it, or its listeners' sockets are not seen. It must be one place
	// only: a second copy of the programs further up would undo the first one's work.
	Cgroup string
	// ProbeCgroup is the kubelet's own cgroup. Optional: without it its probes are captured like any connection.
	ProbeCgroup string
	// Log receives life-cycle messages. Optional.
	Log *slog.Logger
}

// Validate checks that the directories are what they should be.
func (c Config) Validate() error {
	errs := []error{
		onFilesystem("bpffs", c.BPFFS, unix.BPF_FS_MAGIC),
		onFilesystem("cgroup", c.Cgroup, unix.CGROUP2_SUPER_MAGIC),
	}
	if c.ProbeCgroup != "" {
		errs = append(errs, onFilesystem("probe cgroup", c.ProbeCgroup, unix.CGROUP2_SUPER_MAGIC))
	}
	return errors.Join(errs...)
}

func onFilesystem(what, path string, magic int64) error {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return fmt.Errorf("find %s %q: %w", what, path, err)
	}
	if int64(s.Type) != magic {
		return fmt.Errorf("find %s %q: filesystem is %#x, want %#x (mount it there)", what, path, s.Type, magic)
	}
	return nil
}

func (c Config) logger() *slog.Logger {
	if c.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Log
}

// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/tests/cluster/machine"
)

// thisMachine is the one this process runs on.
func thisMachine(ctx context.Context) host {
	return host{
		root:    func() bool { return os.Geteuid() == 0 },
		program: hasProgram,
		library: func(name string) bool { return hasLibrary(ctx, name) },
		path: func(path string) bool {
			_, err := os.Stat(path)
			return err == nil
		},
		filesystem:  hasFilesystem,
		hierarchies: machine.Hierarchies,
		built:       func(recipe string) (bool, error) { return isBuilt(ctx, recipe) },
		watch: func() (io.Closer, error) {
			fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
			if err != nil {
				return nil, err
			}
			return os.NewFile(uintptr(fd), "inotify"), nil
		},
	}
}

func hasProgram(name string) bool {
	if _, err := exec.LookPath(name); err == nil {
		return true
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if _, err := os.Stat(dir + name); err == nil {
			return true
		}
	}
	return false
}

func hasFilesystem(kind string) bool {
	known, _ := os.ReadFile("/proc/filesystems")
	return bytes.Contains(known, []byte("\t"+kind+"\n")) || exec.Command("modprobe", "--dry-run", kind).Run() == nil
}

// isBuilt says whether the outcome of the recipe of that name is in the cache.
func isBuilt(ctx context.Context, name string) (bool, error) {
	b, err := newBuilder(ctx, nil)
	if err != nil {
		return false, err
	}
	all := recipes()
	i := slices.IndexFunc(all, func(r recipe) bool { return r.name == name })
	_, built, err := b.find(all[i])
	return built, err
}

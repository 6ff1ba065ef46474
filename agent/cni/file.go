// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// configurations lists what the runtime would read, in its order, without the list made here.
func configurations(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, fmt.Errorf("list network configurations: %w", err)
	}
	var out []string
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".conf", ".conflist", ".json":
			if e.Name() != ownList && !e.IsDir() {
				out = append(out, filepath.Join(dir, e.Name()))
			}
		}
	}
	return out, nil
}

// edit changes a file that has another owner, and reports whether it did. A link is followed: it stays one.
func edit(path string, change func([]byte) ([]byte, error), log *slog.Logger) (bool, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false, fmt.Errorf("edit network configuration: %w (a link must lead to a file that the agent can reach)", err)
	}
	for range 10 {
		before, err := os.ReadFile(path)
		if err != nil {
			return false, fmt.Errorf("edit network configuration: %w", err)
		}
		after, err := change(before)
		if err != nil {
			return false, fmt.Errorf("%s: %w", path, err)
		}
		if bytes.Equal(before, after) {
			return false, nil
		}
		_, err = replaceFile(path, before, after, 0)
		if errors.Is(err, errChanged) {
			continue // its owner wrote it just now
		}
		if err != nil {
			return false, fmt.Errorf("edit network configuration: %w", err)
		}
		log.Info("network configuration edited", "path", path)
		return true, nil
	}
	return false, fmt.Errorf("edit %s: its owner writes it all the time", path)
}

// temporary names files on their way. The runtime reads neither such names nor the extension.
const temporary = ".warren-cni-*.tmp"

// sweep removes what a process that was killed left on its way.
func sweep(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, temporary))
	for _, path := range left {
		err = errors.Join(err, removeFile(path))
	}
	return err
}

var errChanged = errors.New("the file changed meanwhile")

// replaceFile puts a new file in place of another in one step, and reports whether it did: not when it is equal. With
// before, the old file must have had that content, and its mode and owner are kept; if it turns out to have had another,
// it is put back, with errChanged. mode is for a new file.
func replaceFile(path string, before, after []byte, mode fs.FileMode) (bool, error) {
	if before == nil {
		st, err := os.Stat(path)
		if err == nil && st.Mode().Perm() == mode {
			if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, after) {
				return false, nil
			}
		}
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), temporary)
	if err != nil {
		return false, about(path, err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(after)
	if err == nil && before != nil {
		err = likeFile(tmp, path)
	} else if err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	switch {
	case err != nil:
		return false, about(path, err)
	case before == nil:
		return true, about(path, os.Rename(tmp.Name(), path))
	}
	return exchange(tmp.Name(), path, before)
}

// about has an error name the file that is to be replaced: the temporary one's name is another one each time, and the error
// would be news each time.
func about(path string, err error) error {
	var p *fs.PathError
	var l *os.LinkError
	switch {
	case errors.As(err, &p):
		return &fs.PathError{Op: p.Op, Path: path, Err: p.Err}
	case errors.As(err, &l):
		return &fs.PathError{Op: l.Op, Path: path, Err: l.Err}
	}
	return err
}

// exchange swaps the files, so that what stood there can be looked at: a file written by its owner since it was read
// must not be lost.
func exchange(tmp, path string, before []byte) (bool, error) {
	err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return true, about(path, os.Rename(tmp, path)) // a file system that can't
	}
	if errors.Is(err, unix.ENOENT) {
		return false, errChanged // removed meanwhile
	}
	if err != nil {
		return false, os.NewSyscallError("renameat2", err)
	}
	had, err := os.ReadFile(tmp)
	if err == nil && bytes.Equal(had, before) {
		return true, nil
	}
	if err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE); err != nil {
		return false, os.NewSyscallError("renameat2", err)
	}
	return false, errChanged
}

// likeFile gives a file the mode and the owner of another; without the capability for the latter, it has ours.
func likeFile(f *os.File, path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := f.Chmod(st.Mode().Perm()); err != nil {
		return err
	}
	if s, ok := st.Sys().(*syscall.Stat_t); ok && (int(s.Uid) != os.Geteuid() || int(s.Gid) != os.Getegid()) {
		if err := f.Chown(int(s.Uid), int(s.Gid)); !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	return nil
}

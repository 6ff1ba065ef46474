// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// lockName is the file in the directory that is locked.
const lockName = "lock"

// dirStorage is a directory: the authority's own, on this machine.
type dirStorage string

// Open takes the directory's lock.
func (s dirStorage) Open() (Files, error) {
	d, err := lockDir(string(s))
	if err != nil {
		return nil, err
	}
	return d, nil
}

// dir is the authority's directory while this process holds its lock.
type dir struct {
	name string
	lock *os.File
}

// lockDir makes the directory if needed, checks who else may write to it, and waits for its lock.
func lockDir(name string) (*dir, error) {
	if name == "" {
		return nil, errors.New("no directory given (set --ca-dir)")
	}
	if err := os.MkdirAll(name, 0o700); err != nil {
		return nil, err
	}
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s: others may write to it, mode %04o (chmod 0700 %s)", name, st.Mode().Perm(), name)
	}
	f, err := os.OpenFile(filepath.Join(name, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return &dir{name: name, lock: f}, nil
}

// Close gives the lock back.
func (d *dir) Close() { _ = d.lock.Close() }

// Path is the file's path.
func (d *dir) Path(file string) string { return filepath.Join(d.name, file) }

// Writable: whoever has the lock may write.
func (d *dir) Writable() error { return nil }

// Read reads a file, and refuses one with a key that others may read.
func (d *dir) Read(file string) ([]byte, error) {
	name := d.Path(file)
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if p := st.Mode().Perm(); slices.Contains(keyFiles, file) && p&0o077 != 0 {
		return nil, fmt.Errorf("%s: others may read the key, mode %04o (chmod 0600 %s; if it was exposed, begin a new authority)", name, p, name)
	}
	return os.ReadFile(name)
}

// Write puts a file in place by rename, readable by all only where it is the bundle.
func (d *dir) Write(file string, data []byte) error {
	mode := fs.FileMode(0o600)
	if file == BundleFile {
		mode = 0o644
	}
	return d.write(file, data, mode)
}

// write puts a file in place by rename, synced before and after, so that a crash leaves the old or the new.
func (d *dir) write(file string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(d.name, "."+file+"-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err = os.Rename(f.Name(), d.Path(file)); err != nil {
		return err
	}
	return syncDir(d.name)
}

func syncDir(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

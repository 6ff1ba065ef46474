// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// RemovePins ends what any version pinned below a bpffs, without loading anything: no trace is left, and traffic of all
// pods goes direct. It is for a node whose broker has ended: what a process holds open stays attached. Where nothing is
// pinned it does nothing.
func RemovePins(bpffs string) error {
	root := pinRoot(bpffs)
	versions, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	for _, v := range versions {
		if err := removeVersion(filepath.Join(root, v.Name())); err != nil {
			return fmt.Errorf("remove pins: %w", err)
		}
	}
	if err := os.RemoveAll(root); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}

// removeVersion ends guards first, or they would drop what is no longer redirected; then the redirection, so that new
// connections go direct while the tunnel's listeners still answer those under way; then all else.
func removeVersion(dir string) error {
	guards, err := filepath.Glob(filepath.Join(dir, dirPods, "*", pinGuard))
	if err != nil {
		return err
	}
	for _, pin := range guards {
		err = errors.Join(err, unpin(pin))
	}
	for _, h := range slices.Backward(hooks) {
		err = errors.Join(err, unpin(filepath.Join(dir, dirLinks, h.name)))
	}
	return errors.Join(err, os.RemoveAll(dir))
}

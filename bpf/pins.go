// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Directories are made under a name with this suffix and renamed when complete, so that nobody finds half of one.
// bpffs reserves names with dots.
const unfinished = "-new"

// Below the directory of the ABI: maps/<name>, links/<hook>, pods/<cookie>/{listeners,lookup,guard}.
const (
	dirMaps  = "maps"
	dirLinks = "links"
	dirPods  = "pods"
)

func pinRoot(bpffs string) string { return filepath.Join(bpffs, "warren") }

func pinDir(bpffs string) string { return filepath.Join(pinRoot(bpffs), fmt.Sprintf("v%d", ABI)) }

// sweep removes what an earlier process left unfinished in dir.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), unfinished) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// openMap returns the pinned map, or makes and pins it.
func openMap(path string, spec *ebpf.MapSpec) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		if m, err = ebpf.NewMap(spec); err != nil {
			return nil, fmt.Errorf("create map %s: %w", spec.Name, err)
		}
		if err = m.Pin(path); err != nil {
			m.Close()
			return nil, fmt.Errorf("pin map %s: %w", spec.Name, err)
		}
		return m, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned map %s: %w", spec.Name, err)
	}
	if err := spec.Compatible(m); err != nil {
		m.Close()
		return nil, fmt.Errorf("re-use pinned map %s: %w (pinned by a version with another layout)", path, err)
	}
	return m, nil
}

// openLink returns the pinned link, nil if there is none.
func openLink(path string) (link.Link, error) {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned link %s: %w", path, err)
	}
	return l, nil
}

// drop ends a link: detached even if another process still holds it, and without its pin.
func drop(l link.Link, path string) error {
	if l == nil {
		return nil
	}
	err := l.Detach()
	if errors.Is(err, link.ErrNotSupported) {
		err = nil // it goes with its last reference
	}
	return errors.Join(err, unpin(path), l.Close())
}

// unpin removes a pin; a missing one is no error.
func unpin(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// errPinGone: attached, but lost to the next process.
var errPinGone = errors.New("pin is gone")

// pinAgain makes a pin that somebody removed. The library would take it for still there.
func pinAgain(o interface {
	Unpin() error
	Pin(string) error
}, path string) error {
	if err := o.Unpin(); err != nil {
		return err
	}
	return o.Pin(path)
}

func pinned(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watcher tells when something below a directory changed.
type watcher struct {
	*fsnotify.Watcher
	dirs map[string]bool
}

func newWatcher(dir string) (*watcher, error) {
	if st, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("watch manifests: %w", err)
	} else if !st.IsDir() {
		return nil, fmt.Errorf("watch manifests %s: not a directory", dir)
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch manifests %s: %w (too many inotify instances? see fs.inotify.max_user_instances)", dir, err)
	}
	return &watcher{Watcher: w, dirs: map[string]bool{}}, nil
}

// watch adds a directory; one already watched costs nothing.
func (w *watcher) watch(dir string) error {
	if w.dirs[dir] {
		return nil
	}
	if err := w.Add(dir); err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	w.dirs[dir] = true
	return nil
}

// wait returns the paths that changed, once it has been quiet for a moment; none when it is time to look
// at everything anyway.
func (w *watcher) wait(ctx context.Context) (map[string]bool, error) {
	touched := map[string]bool{}
	timer := time.NewTimer(rescan)
	defer timer.Stop()
	var deadline time.Time
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
			return touched, nil
		case ev, ok := <-w.Events:
			if !ok {
				return nil, errors.New("watch manifests: watcher closed")
			}
			if ev.Has(fsnotify.Remove) || ev.Has(fsnotify.Rename) {
				delete(w.dirs, ev.Name) // a directory of that name would need a new watch
			}
			if ignored(ev.Name) && !strings.HasPrefix(filepath.Base(ev.Name), "..") {
				continue
			}
			touched[ev.Name] = true
		case _, ok := <-w.Errors:
			if !ok {
				return nil, errors.New("watch manifests: watcher closed")
			}
			// Notices were lost: look at everything.
		}
		now := time.Now()
		if deadline.IsZero() {
			deadline = now.Add(patience)
		}
		timer.Reset(min(quiet, deadline.Sub(now)))
	}
}

// ignored reports whether a path is none of ours by its name: hidden, which is how files being written and
// editors' copies are called.
func ignored(path string) bool {
	base := filepath.Base(path)
	return strings.HasPrefix(base, ".") || strings.HasSuffix(base, "~")
}

func isManifest(path string) bool {
	switch filepath.Ext(path) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// foreign reports whether a path below status/ is no capture file, nor a directory on the way to one.
func foreign(root, path string) bool {
	status := filepath.Join(root, StatusDir)
	return strings.HasPrefix(path, status+string(filepath.Separator)) &&
		path != filepath.Join(status, podsDir) && !isCapture(root, path)
}

// stat tells whether a file may have changed.
type stat struct {
	size          int64
	modified      int64 // ns since 1970
	inode, device uint64
}

func statOf(i fs.FileInfo) stat {
	s := stat{size: i.Size(), modified: i.ModTime().UnixNano()}
	if sys, ok := i.Sys().(*syscall.Stat_t); ok {
		s.inode, s.device = sys.Ino, sys.Dev
	}
	return s
}

// walk finds the manifests and capture files below root, and has every directory watched before it is read.
// Symbolic links to files are followed (a mounted ConfigMap is made of them), to directories not. What
// vanishes meanwhile is not there.
func walk(root string, watch func(dir string) error) (map[string]stat, error) {
	found := map[string]stat{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && path != root && errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case path != root && (ignored(path) || foreign(root, path)):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			if err := watch(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		case !isManifest(path):
			return nil
		}
		info, err := os.Stat(path)
		if err == nil && info.Mode().IsRegular() {
			found[path] = statOf(info)
		}
		return nil
	})
	return found, err
}

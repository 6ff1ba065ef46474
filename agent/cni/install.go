// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/warren-mesh/warren/mesh/cni"
)

// Installer puts the plugin's binary and its entry on a node, and keeps them there.
type Installer struct {
	BinDir  string // the runtime's plugins, usually /opt/cni/bin; "": off
	ConfDir string // the runtime's network configurations, usually /etc/cni/net.d; "": off
	Plugin  string // the binary to install
	Entry   Entry
	Log     *slog.Logger
}

const (
	// quiet lets files that are written together be looked at once.
	quiet = 20 * time.Millisecond
	// lookAgain finds what the kernel's notices missed.
	lookAgain = 5 * time.Second
)

// On reports whether anything is to be installed.
func (i Installer) On() bool { return i.BinDir != "" || i.ConfDir != "" }

// Run installs the plugin, and again whenever it is missing, until ctx ends; then all stays: an agent that restarts
// must not open a gap. What is there but different is replaced at the start only, so that two agents of different
// releases that run side by side for a while don't undo each other's work.
func (i Installer) Run(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch CNI directories: %w", err)
	}
	defer w.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for last, first := "", true; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-w.Events:
			timer.Reset(quiet)
			continue
		case err := <-w.Errors:
			i.Log.Warn("watch CNI directories", "err", err)
			continue
		case <-timer.C:
		}
		err := errors.Join(watch(w, i.BinDir), watch(w, i.ConfDir), i.ensure(first))
		switch {
		case err == nil:
			first, last = false, ""
		case err.Error() != last:
			last = err.Error()
			i.Log.Error("CNI plugin is not installed: new pods are captured only once the agent sees them run", "err", err)
		}
		timer.Reset(lookAgain)
	}
}

func watch(w *fsnotify.Watcher, dir string) error {
	if dir == "" {
		return nil
	}
	if err := w.Add(dir); err != nil { // again and again: the directory may be a new one of the same name
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	return nil
}

// Install installs the plugin once.
func (i Installer) Install() error { return i.ensure(true) }

// ensure installs what is missing: the binary before the entry that names it.
func (i Installer) ensure(replace bool) error {
	if i.BinDir != "" {
		if err := i.ensureBinary(replace); err != nil {
			return err
		}
	}
	if i.ConfDir == "" {
		return nil
	}
	return i.ensureEntry(replace)
}

func (i Installer) ensureBinary(replace bool) error {
	path := filepath.Join(i.BinDir, cni.PluginName)
	if st, err := os.Stat(path); err == nil && !replace && st.Mode().IsRegular() && st.Size() > 0 {
		return nil
	}
	want, err := os.ReadFile(i.Plugin)
	if err != nil {
		return fmt.Errorf("install CNI plugin: %w", err)
	}
	changed, err := replaceFile(path, nil, want, 0o755)
	if err != nil {
		return fmt.Errorf("install CNI plugin: %w", err)
	}
	if changed {
		i.Log.Info("CNI plugin installed", "path", path)
	}
	return nil
}

// ensureEntry puts the entry into the configuration that the runtime takes, the first by name, and into no other.
func (i Installer) ensureEntry(replace bool) error {
	entry, err := i.Entry.marshal()
	if err != nil {
		return err
	}
	files, err := configurations(i.ConfDir)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("install CNI plugin: no network configuration in %s yet (the cluster's network plugin writes one)", i.ConfDir)
	}
	primary := files[0]
	if filepath.Ext(primary) == ".conflist" {
		err = edit(primary, func(b []byte) ([]byte, error) { return insert(b, entry, replace) }, i.Log)
		if err == nil {
			err = removeFile(filepath.Join(i.ConfDir, ownList))
		}
	} else {
		err = i.ensureOwnList(primary, entry, replace)
	}
	if err != nil {
		return fmt.Errorf("install CNI plugin: %w", err)
	}
	for _, other := range files[1:] {
		if err := withdraw(other, i.Log); err != nil && !errors.Is(err, errNoList) && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("install CNI plugin: %w", err)
		}
	}
	return nil
}

// ownList is the list made of a configuration that can hold one plugin only. It has to come before that one.
const ownList = "00-warren.conflist"

func (i Installer) ensureOwnList(primary string, entry []byte, replace bool) error {
	path := filepath.Join(i.ConfDir, ownList)
	if filepath.Base(primary) <= ownList {
		return fmt.Errorf("%s holds a single plugin, and no list can be put before it (rename it to sort behind %s)", primary, ownList)
	}
	b, err := os.ReadFile(primary)
	if err != nil {
		return err
	}
	want, err := wrap(b, entry)
	if err != nil {
		return fmt.Errorf("%s: %w", primary, err)
	}
	if have, err := os.ReadFile(path); err == nil && !replace && sameButEntry(have, want) {
		return nil
	}
	changed, err := replaceFile(path, nil, want, 0o644)
	if changed {
		i.Log.Info("CNI plugin chained", "path", path, "behind", primary)
	}
	return err
}

// Remove takes binary and entries away, the entries first. What others wrote is as it was. It is for a node whose agent
// has ended; one that runs would install again.
func Remove(binDir, confDir string, log *slog.Logger) error {
	var errs []error
	if confDir != "" {
		errs = append(errs, removeFile(filepath.Join(confDir, ownList)))
		files, err := configurations(confDir)
		errs = append(errs, err)
		for _, f := range files {
			if err := withdraw(f, log); err != nil && !errors.Is(err, errNoList) && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove CNI plugin: %w (the binary stays while a configuration may name it)", err)
	}
	if binDir == "" {
		return nil
	}
	if err := removeFile(filepath.Join(binDir, cni.PluginName)); err != nil {
		return fmt.Errorf("remove CNI plugin: %w", err)
	}
	return nil
}

// withdraw takes the entry out of a list.
func withdraw(path string, log *slog.Logger) error {
	if filepath.Ext(path) != ".conflist" {
		return nil
	}
	return edit(path, func(b []byte) ([]byte, error) {
		out, _, err := cut(b)
		return out, err
	}, log)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

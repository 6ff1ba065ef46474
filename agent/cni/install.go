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
	// Newest says whether no newer agent runs on the node; nil: none ever does.
	Newest func() bool
	Log    *slog.Logger
}

const (
	// quiet lets files that are written together be looked at once.
	quiet = 20 * time.Millisecond
	// lookAgain finds what the kernel's notices missed.
	lookAgain = 5 * time.Second
	// tug is the pause between repairs from which somebody must be taking the plugin away again and again.
	tug = time.Second
)

// On reports whether anything is to be installed.
func (i Installer) On() bool { return i.BinDir != "" || i.ConfDir != "" }

// Run installs the plugin, and again whenever it is missing, until ctx ends; then all stays: an agent that restarts
// must not open a gap. Of two agents of different releases that run side by side for a while both put in what is missing,
// and only the newest replaces what is there but different: whatever the other one did, the newest's stays.
func (i Installer) Run(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch CNI directories: %w", err)
	}
	defer w.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var p pace
	var binary fs.FileInfo // as it was last found right
	for last, soon := "", false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-w.Events:
			if !soon { // what goes on writing must not put it off
				soon = true
				timer.Reset(p.pause())
			}
			continue
		case err := <-w.Errors:
			i.Log.Warn("watch CNI directories", "err", err)
			continue
		case <-timer.C:
		}
		err := errors.Join(watch(w, i.BinDir), watch(w, i.ConfDir))
		newest := i.Newest == nil || i.Newest()
		now := i.binary()
		changed, ierr := i.ensure(newest && !unchanged(binary, now), newest)
		if err = errors.Join(err, ierr); err == nil && newest {
			binary = i.binary()
		}
		switch {
		case err == nil:
			last = ""
		case err.Error() != last:
			last = err.Error()
			i.Log.Error("CNI plugin is not installed: new pods are captured only once the agent sees them run", "err", err)
		}
		if p.looked(time.Now(), changed || err != nil) && err == nil {
			i.Log.Error("the CNI plugin is taken away again and again: pods that start meanwhile are captured only once the agent sees them run (an owner that wants its directory for itself, as Cilium does with cni.exclusive, has to be told otherwise)", "dir", i.ConfDir)
		}
		soon = false
		timer.Reset(lookAgain)
	}
}

// pace spaces looks at directories that go on changing: an owner that undoes each repair must not be met at the speed of
// the disk. The zero value looks at once.
type pace struct {
	busy  int       // looks in a row, none long after the one before, that found something to do
	last  time.Time // of these
	tired bool
}

func (p *pace) pause() time.Duration {
	return min(quiet<<min(p.busy, 10), lookAgain)
}

// looked takes what a look came to, and reports whether it was one too many; once.
func (p *pace) looked(now time.Time, busy bool) bool {
	if now.Sub(p.last) > 2*lookAgain {
		p.busy, p.tired = 0, false
	}
	if !busy {
		return false
	}
	p.last = now
	p.busy++
	told := p.tired
	p.tired = p.pause() > tug
	return p.tired && !told
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
func (i Installer) Install() error {
	_, err := i.ensure(true, true)
	return err
}

// binary is what lies where the plugin's belongs; nil: nothing.
func (i Installer) binary() fs.FileInfo {
	st, err := os.Stat(filepath.Join(i.BinDir, cni.PluginName))
	if err != nil {
		return nil
	}
	return st
}

// unchanged spares reading a file again.
func unchanged(before, now fs.FileInfo) bool {
	return before != nil && now != nil && os.SameFile(before, now) && before.Size() == now.Size() && before.ModTime().Equal(now.ModTime())
}

// ensure installs what is missing, the binary before the entry that names it, and reports whether anything was. What is
// different is replaced, each of the two if it is said so.
func (i Installer) ensure(replaceBinary, replace bool) (changed bool, err error) {
	if i.BinDir != "" {
		if changed, err = i.ensureBinary(replaceBinary); err != nil {
			return changed, fmt.Errorf("install CNI plugin: %w", err)
		}
	}
	if i.ConfDir == "" {
		return changed, nil
	}
	edited, err := i.ensureEntry(replace)
	if err != nil {
		err = fmt.Errorf("install CNI plugin: %w", err)
	}
	return changed || edited, err
}

func (i Installer) ensureBinary(replace bool) (bool, error) {
	path := filepath.Join(i.BinDir, cni.PluginName)
	if st := i.binary(); st != nil && !replace && st.Mode().IsRegular() && st.Size() > 0 {
		return false, nil
	}
	want, err := os.ReadFile(i.Plugin)
	if err != nil {
		return false, err
	}
	changed, err := replaceFile(path, nil, want, 0o755)
	if changed && err == nil {
		i.Log.Info("CNI plugin installed", "path", path)
	}
	return changed, err
}

// ensureEntry puts the entry into the configuration that the runtime takes, the first by name, and into no other. Where
// that one only hands on to another, as Multus does, it is the next.
func (i Installer) ensureEntry(replace bool) (changed bool, err error) {
	entry, err := i.Entry.marshal()
	if err != nil {
		return false, err
	}
	files, err := configurations(i.ConfDir)
	if err != nil {
		return false, err
	}
	meta := ""
	for len(files) > 1 && handsOn(files[0]) {
		meta, files = files[0], files[1:]
	}
	if len(files) == 0 {
		// A list made of a configuration that its owner took away would have pods connected by nobody's word.
		err = removeFile(filepath.Join(i.ConfDir, ownList))
		return false, errors.Join(err, fmt.Errorf("no network configuration in %s yet (the cluster's network plugin writes one)", i.ConfDir))
	}
	primary := files[0]
	if err := spoken(primary); err != nil {
		return false, errors.Join(err, withdraw(primary, i.Log))
	}
	switch {
	case filepath.Ext(primary) == ".conflist":
		changed, err = edit(primary, func(b []byte) ([]byte, error) { return insert(b, entry, replace) }, i.Log)
		if err == nil {
			err = removeFile(filepath.Join(i.ConfDir, ownList))
		}
	case meta != "":
		err = fmt.Errorf("%s hands on to %s, which holds a single plugin (make it a .conflist)", meta, primary)
	default:
		changed, err = i.ensureOwnList(primary, entry, replace)
	}
	for _, other := range files[1:] {
		if err == nil {
			err = withdraw(other, i.Log)
		}
	}
	return changed, err
}

// ownList is the list made of a configuration that can hold one plugin only. It has to come before that one.
const ownList = "00-warren.conflist"

func (i Installer) ensureOwnList(primary string, entry []byte, replace bool) (bool, error) {
	path := filepath.Join(i.ConfDir, ownList)
	if filepath.Base(primary) <= ownList {
		return false, fmt.Errorf("%s holds a single plugin, and no list can be put before it (rename it to sort behind %s)", primary, ownList)
	}
	b, err := os.ReadFile(primary)
	if err != nil {
		return false, err
	}
	want, err := wrap(b, entry)
	if err != nil {
		return false, fmt.Errorf("%s: %w", primary, err)
	}
	if have, err := os.ReadFile(path); err == nil && !replace && sameButEntry(have, want) {
		return false, nil
	}
	changed, err := replaceFile(path, nil, want, 0o644)
	if changed {
		i.Log.Info("CNI plugin chained", "path", path, "behind", primary)
	}
	return changed, err
}

// Remove takes binary and entries away, the entries first. What others wrote is as it was. It is for a node whose agent
// has ended; one that runs would install again.
func Remove(binDir, confDir string, log *slog.Logger) error {
	var errs []error
	if confDir != "" {
		errs = append(errs, removeFile(filepath.Join(confDir, ownList)))
		files, err := configurations(confDir)
		if !errors.Is(err, fs.ErrNotExist) { // a node without a network has nothing to remove
			errs = append(errs, err)
		}
		for _, f := range files {
			errs = append(errs, withdraw(f, log))
		}
		errs = append(errs, sweep(confDir))
	}
	if binDir != "" {
		errs = append(errs, sweep(binDir))
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

// withdraw takes the entry out of a file, where it is a list and has it.
func withdraw(path string, log *slog.Logger) error {
	if filepath.Ext(path) != ".conflist" {
		return nil
	}
	_, err := edit(path, func(b []byte) ([]byte, error) {
		out, _, err := cut(b)
		return out, err
	}, log)
	if errors.Is(err, errNoList) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

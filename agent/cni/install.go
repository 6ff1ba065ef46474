// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

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
	// Installed is set to 1 while the plugin is installed, and to 0 while it is not; nil: nobody wants to know.
	Installed prometheus.Gauge
	Log       *slog.Logger
}

// errNoNetwork means that there is nothing yet to chain the plugin to.
var errNoNetwork = errors.New("no network configuration yet")

// On reports whether anything is to be installed.
func (i Installer) On() bool { return i.BinDir != "" || i.ConfDir != "" }

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
		return false, errors.Join(err, fmt.Errorf("%w in %s (the cluster's network plugin writes one)", errNoNetwork, i.ConfDir))
	}
	primary := files[0]
	if err := spoken(primary); err != nil {
		return false, errors.Join(err, withdraw(primary, i.Log))
	}
	if err := i.beside(primary); err != nil {
		return false, err
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
		errs = append(errs, retract(confDir, log), sweep(confDir))
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

// retract takes the entry out of all of the directory's configurations.
func retract(confDir string, log *slog.Logger) error {
	errs := []error{removeFile(filepath.Join(confDir, ownList))}
	files, err := configurations(confDir)
	if !errors.Is(err, fs.ErrNotExist) { // a node without a network has nothing of it
		errs = append(errs, err)
	}
	for _, f := range files {
		errs = append(errs, withdraw(f, log))
	}
	return errors.Join(errs...)
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

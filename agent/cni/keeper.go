// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// quiet lets files that are written together be looked at once.
	quiet = 20 * time.Millisecond
	// lookAgain finds what the kernel's notices missed.
	lookAgain = 5 * time.Second
	// tug is the pause between repairs from which somebody must be taking the plugin away again and again.
	tug = time.Second
)

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
	k := keeper{Installer: i}
	for soon := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-w.Events:
			if !soon { // what goes on writing must not put it off
				soon = true
				timer.Reset(k.pace.pause())
			}
			continue
		case err := <-w.Errors:
			i.Log.Warn("watch CNI directories", "err", err)
			continue
		case <-timer.C:
		}
		k.look(time.Now(), errors.Join(watch(w, i.BinDir), watch(w, i.ConfDir)))
		soon = false
		timer.Reset(lookAgain)
	}
}

// keeper is what an installer that runs knows from one look at the directories to the next.
type keeper struct {
	Installer
	pace  pace
	right fs.FileInfo // the binary as it was last found right
	gone  absence
	wrong string // what was last said to be wrong; "": nothing
}

// look repairs what is wrong, and says what it can't repair, once. err is what is wrong already.
func (k *keeper) look(now time.Time, err error) {
	newest := k.Newest == nil || k.Newest()
	seen := k.binary() // before it is read: what takes its place meanwhile was never found right
	changed, ierr := k.ensure(newest && !unchanged(k.right, seen), newest)
	// Who only waits for somebody else is to see at once that it has come.
	waits := errors.Is(ierr, errElsewhere) || errors.Is(ierr, errNoNetwork)
	if err = errors.Join(err, ierr); newest && (err == nil || waits) {
		k.right = seen
	}
	// Only the newest knows where the plugin belongs now.
	if k.gone.lasts(now, errors.Is(ierr, errElsewhere)) && newest {
		err = errors.Join(err, retract(k.ConfDir, k.Log))
	}
	k.say(err)
	if k.pace.looked(now, changed || err != nil && !waits) && err == nil {
		k.Log.Error("the CNI plugin is taken away again and again: pods that start meanwhile are captured only once the agent sees them run (an owner that wants its directory for itself, as Cilium does with cni.exclusive, has to be told otherwise)", "dir", k.ConfDir)
	}
}

// say tells what is wrong, where that is news.
func (k *keeper) say(err error) {
	installed, wrong := 1.0, ""
	if err != nil {
		installed, wrong = 0, err.Error()
	}
	if k.Installed != nil {
		k.Installed.Set(installed)
	}
	switch {
	case wrong == k.wrong:
	case wrong == "":
		k.Log.Info("CNI plugin is installed")
	default:
		k.Log.Error("CNI plugin is not installed: new pods are captured only once the agent sees them run", "err", err)
	}
	k.wrong = wrong
}

// InstalledGauge is the metric for Installer.Installed.
func InstalledGauge(reg prometheus.Registerer) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "warren_cni_installed",
		Help: "1 while the CNI plugin is installed; without it new pods are captured only once the agent sees them run.",
	})
	reg.MustRegister(g)
	return g
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

// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// fullDatapath takes no exceptions while err is set.
type fullDatapath struct {
	datapath
	err error
	set []netip.Prefix
}

func (f *fullDatapath) SetExceptions(p []netip.Prefix) error {
	if f.err == nil {
		f.set = p
	}
	return f.err
}

func (f *fullDatapath) Pods() ([]uint64, error) { return nil, nil }

func (f *fullDatapath) Reasons() (map[string]uint64, error) { return nil, nil }

func idleBroker(t *testing.T, dp datapath, log *bytes.Buffer) *Broker {
	return &Broker{
		cfg: Config{StateDir: t.TempDir()}, log: slog.New(slog.NewTextHandler(log, nil)), dp: dp,
		spaces: newSpaces(1, 1), pods: map[string]*pod{}, agents: map[*agentConn]bool{}, ztunnels: map[*ztunnel]bool{},
		handed: map[string][]handedListener{}, excepting: chore{what: "set exceptions"}, saving: chore{what: "save captures"},
	}
}

func TestExceptionsAreReportedAndTriedAgain(t *testing.T) {
	var log bytes.Buffer
	dp := &fullDatapath{err: errors.New("map is full")}
	b := idleBroker(t, dp, &log)
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	b.setExceptions(want)
	if s := b.stats(1); len(s.Failures) != 1 || !strings.Contains(s.Failures[0], "map is full") {
		t.Errorf("failures %q", s.Failures)
	}
	now := time.Now()
	for range 50 {
		now = now.Add(retryEvery)
		b.chores(now)
	}
	if n := strings.Count(log.String(), "map is full"); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, &log)
	}
	dp.err = nil
	b.chores(now.Add(choreMost))
	if s := b.stats(2); len(s.Failures) != 0 || !slices.Equal(dp.set, want) {
		t.Errorf("failures %q, exceptions %v", s.Failures, dp.set)
	}
}

func TestStateThatIsNotSaved(t *testing.T) {
	var log bytes.Buffer
	b := idleBroker(t, &fullDatapath{}, &log)
	good := b.cfg.StateDir
	b.cfg.StateDir = filepath.Join(good, "file")
	must(t, os.WriteFile(b.cfg.StateDir, nil, 0o600))
	b.dirty = true
	now := time.Now()
	b.chores(now)
	if s := b.stats(1); len(s.Failures) != 1 || !strings.Contains(s.Failures[0], "save captures") {
		t.Errorf("failures %q", s.Failures)
	}
	next := b.saving.next
	b.chores(now.Add(choreFirst / 2))
	if b.saving.next != next {
		t.Error("tried again before its time")
	}
	for range 50 {
		now = now.Add(choreMost)
		b.chores(now)
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, &log)
	}
	if b.saving.wait != choreMost {
		t.Errorf("the next try comes after %v, want %v", b.saving.wait, choreMost)
	}
	b.cfg.StateDir = good
	b.chores(now.Add(choreMost))
	if s := b.stats(2); b.dirty || len(s.Failures) != 0 {
		t.Errorf("dirty %t, failures %q", b.dirty, s.Failures)
	}
}

// What fails is told whole only as far as a message allows.
func TestChoreTextIsBounded(t *testing.T) {
	c := chore{what: "x"}
	c.tried(errors.New(strings.Repeat("e", 1<<17)), time.Now(), slog.New(slog.DiscardHandler))
	if _, err := wire.Encode(wire.TypeStats, wire.Stats{Failures: failures(&c)}); err != nil {
		t.Error(err)
	}
}

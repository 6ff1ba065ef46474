// SPDX-License-Identifier: Apache-2.0

package informers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh/kube"
)

const (
	// snapshotFile lies in the state directory.
	snapshotFile = "objects.snapshot"
	// magic begins it; another format gets another word, and counts as no snapshot.
	magic = "warren objects 1\n"
	// saveInterval is the least time between two writes; of a snapshot that takes long it is saveShare times that.
	saveInterval = 5 * time.Second
	saveShare    = 50
	// onItsWay is how young a snapshot on its way into place may be another process's that still writes it: an agent that
	// takes over stands beside the one before it, and 1 GB may take its time.
	onItsWay = 10 * time.Minute
	// maxSnapshot bounds what is read back, in bytes.
	maxSnapshot = 1 << 30
)

// save writes the snapshot while it changes, and once more at the end.
func (s *Source) save(ctx context.Context) {
	wait := saveInterval
	for last := false; !last; {
		select {
		case <-ctx.Done():
			last = true
		case <-time.After(wait):
		}
		contents, changed := s.board.contents()
		if !changed {
			continue
		}
		start := time.Now()
		now := s.cfg.Objects.Now()
		if err := write(s.cfg.StateDir, contents, now); err != nil {
			s.log.Warn("snapshot not written: a restart without the API server would serve an older one", "err", err)
			s.board.mu.Lock()
			s.board.unsaved = true
			s.board.mu.Unlock()
			continue
		}
		s.mu.Lock()
		s.written = now
		s.mu.Unlock()
		wait = max(saveInterval, saveShare*time.Since(start))
	}
}

// write puts the snapshot in place by rename: magic, time in Unix seconds, then kind by kind its name, the number
// of its objects, and keys and values, each preceded by its length; last the SHA-256 of all before.
func write(dir string, contents map[string]objects, now time.Time) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	const temporary = "." + snapshotFile + "-*"
	left, _ := filepath.Glob(filepath.Join(dir, temporary))
	for _, l := range left { // of processes that were killed meanwhile
		if st, err := os.Lstat(l); err == nil && time.Since(st.ModTime()) > onItsWay {
			_ = os.Remove(l)
		}
	}
	f, err := os.CreateTemp(dir, temporary) // 0600
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write snapshot: %w", err), os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(marshal(contents, now))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, snapshotFile))
}

func marshal(contents map[string]objects, now time.Time) []byte {
	b := []byte(magic)
	text := func(s []byte) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	b = binary.BigEndian.AppendUint64(b, uint64(now.Unix()))
	for _, kind := range slices.Sorted(maps.Keys(contents)) {
		text([]byte(kind))
		b = binary.AppendUvarint(b, uint64(len(contents[kind])))
		for key, data := range contents[kind] {
			text([]byte(key))
			text(data)
		}
	}
	return seal(b)
}

// seal appends the sum of b.
func seal(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// load reads the snapshot and the time it was written.
func load(dir string) (map[string]objects, time.Time, error) {
	path := filepath.Join(dir, snapshotFile)
	st, err := os.Stat(path)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read snapshot: %w", err)
	}
	if st.Size() > maxSnapshot {
		return nil, time.Time{}, fmt.Errorf("read snapshot %s: %d bytes are too many", path, st.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read snapshot: %w", err)
	}
	contents, written, err := unmarshal(b)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read snapshot %s: %w", path, err)
	}
	return contents, written, nil
}

// before counts the objects of each kind in the snapshot that an earlier process left; it is read when first asked for.
func before(dir string) func(kind string) int {
	counts := sync.OnceValue(func() map[string]int {
		out := map[string]int{}
		if dir == "" {
			return out
		}
		contents, _, err := load(dir)
		if err != nil {
			return out // none, or none that would be served either
		}
		for kind, objects := range contents {
			out[kind] = len(objects)
		}
		return out
	})
	return func(kind string) int { return counts()[kind] }
}

var errDamaged = errors.New("damaged, or of another version")

func unmarshal(b []byte) (map[string]objects, time.Time, error) {
	body, ok := bytes.CutPrefix(b, []byte(magic))
	if !ok || len(body) < 8+sha256.Size {
		return nil, time.Time{}, errDamaged
	}
	if sum := sha256.Sum256(b[:len(b)-sha256.Size]); !bytes.Equal(sum[:], b[len(b)-sha256.Size:]) {
		return nil, time.Time{}, errDamaged
	}
	body = body[:len(body)-sha256.Size]
	written := time.Unix(int64(binary.BigEndian.Uint64(body)), 0)
	r := reader{rest: body[8:]}
	out := map[string]objects{}
	for len(r.rest) > 0 && !r.failed {
		kind := string(r.text())
		n := r.number()
		m := objects{}
		for ; n > 0 && !r.failed; n-- {
			key := string(r.text())
			m[key] = r.text()
		}
		out[kind] = m
	}
	if r.failed {
		return nil, time.Time{}, errDamaged
	}
	return out, written, nil
}

// reader takes a snapshot apart; once failed, it gives nothing more.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.failed, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *reader) text() []byte {
	n := r.number()
	if n > uint64(len(r.rest)) {
		r.failed, r.rest = true, nil
		return nil
	}
	s := r.rest[:n]
	r.rest = r.rest[n:]
	return s
}

// eventsOf reads the objects of a snapshot. Kinds that are read no more are passed over.
func eventsOf(kept map[string]objects) (evs []kube.Event, problems []kube.Problem) {
	for _, k := range kinds {
		for key, data := range kept[k.name] {
			o, errs := k.decode(data)
			if len(errs) > 0 {
				problems = append(problems, problemsOf(k.name, key, errs)...)
				if ev, ok := remnant(k.name, key, data); ok {
					evs = append(evs, ev)
				}
				continue
			}
			evs = append(evs, kube.Event{Object: o})
		}
	}
	return evs, problems
}

// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// podFiles keep something of pods for the next agent, one file for each.
type podFiles[T any, P interface {
	*T
	run() *string // of the kernel, that it was kept in
}] struct {
	dir string // "" keeps nothing
}

// load reads what an earlier agent kept in this run of the kernel, by pod uid.
func (s podFiles[T, P]) load() (map[string]*T, error) {
	out := map[string]*T{}
	if s.dir == "" {
		return out, nil
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return out, fmt.Errorf("read files of pods: %w", err)
	}
	err = nil
	for _, e := range entries {
		uid, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			s.sweep(e)
			continue
		}
		b, rerr := os.ReadFile(filepath.Join(s.dir, e.Name()))
		one := new(T)
		if rerr == nil {
			rerr = json.Unmarshal(b, one)
		}
		if rerr == nil && *P(one).run() == bootID() {
			out[uid] = one
			continue
		}
		err = errors.Join(err, rerr, s.remove(uid))
	}
	return out, err
}

func (s podFiles[T, P]) save(uid string, one *T) error {
	if s.dir == "" {
		return nil
	}
	*P(one).run() = bootID()
	b, err := json.Marshal(one)
	if err == nil {
		err = os.MkdirAll(s.dir, 0o700)
	}
	// No sync: what is kept here need not outlast the kernel.
	if err == nil {
		err = s.replace(uid, b)
	}
	if err != nil {
		return fmt.Errorf("keep file of pod %s: %w", uid, err)
	}
	return nil
}

// replace goes by a file of its own: while one agent replaces another both write.
func (s podFiles[T, P]) replace(uid string, b []byte) error {
	f, err := os.CreateTemp(s.dir, "."+uid+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone under this name when all went well
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(s.dir, uid+".json"))
}

// onItsWay is how young a file on its way into place may be another agent's that still writes it.
const onItsWay = time.Minute

// sweep removes what an agent that was killed left on its way.
func (s podFiles[T, P]) sweep(e fs.DirEntry) {
	st, err := e.Info()
	if err == nil && strings.HasPrefix(e.Name(), ".") && time.Since(st.ModTime()) > onItsWay {
		_ = os.Remove(filepath.Join(s.dir, e.Name()))
	}
}

func (s podFiles[T, P]) remove(uid string) error {
	if s.dir == "" {
		return nil
	}
	if err := os.Remove(filepath.Join(s.dir, uid+".json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove file of pod %s: %w", uid, err)
	}
	return nil
}

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
	tmp := filepath.Join(s.dir, "."+uid)
	if err == nil {
		err = os.WriteFile(tmp, b, 0o600)
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(s.dir, uid+".json"))
	}
	if err != nil {
		return fmt.Errorf("keep file of pod %s: %w", uid, err)
	}
	return nil
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

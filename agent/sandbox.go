// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sandbox is what the CNI plugin said of a pod before its object did.
type sandbox struct {
	Container string       `json:"container"`
	Addresses []netip.Addr `json:"addresses"`
	Before    []netip.Addr `json:"before,omitempty"` // the object's then: of a sandbox before, or none
	Boot      string       `json:"boot,omitempty"`   // the run of the kernel that it was in
}

// addresses are the pod's: the object's own, except while it still says what it said before the sandbox was made. The
// order is the sandbox's where both say the same, so that the object's word changes no capture.
func (t *tracked) addresses() []netip.Addr {
	s := t.sandbox
	if s != nil && (sameAddresses(t.pod.Addresses, s.Before) || sameAddresses(t.pod.Addresses, s.Addresses)) {
		return s.Addresses
	}
	return t.pod.Addresses
}

func sameAddresses(a, b []netip.Addr) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(x netip.Addr) bool { return !slices.Contains(b, x) })
}

// sandboxes are kept in files, one for each pod, until its object has the addresses: an agent started in between would
// tell the broker of no such pod, and so end its capture.
type sandboxes struct{ dir string }

// load reads what an earlier agent kept of this run of the kernel.
func (s sandboxes) load() (map[string]*sandbox, error) {
	out := map[string]*sandbox{}
	if s.dir == "" {
		return out, nil
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return out, fmt.Errorf("read sandboxes: %w", err)
	}
	err = nil
	for _, e := range entries {
		uid, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		b, rerr := os.ReadFile(filepath.Join(s.dir, e.Name()))
		var one sandbox
		if rerr == nil {
			rerr = json.Unmarshal(b, &one)
		}
		if rerr == nil && one.Boot == bootID() {
			out[uid] = &one
			continue
		}
		err = errors.Join(err, rerr, s.remove(uid))
	}
	return out, err
}

func (s sandboxes) save(uid string, one *sandbox) error {
	if s.dir == "" {
		return nil
	}
	one.Boot = bootID()
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
		return fmt.Errorf("keep sandbox of pod %s: %w", uid, err)
	}
	return nil
}

func (s sandboxes) remove(uid string) error {
	if s.dir == "" {
		return nil
	}
	if err := os.Remove(filepath.Join(s.dir, uid+".json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget sandbox of pod %s: %w", uid, err)
	}
	return nil
}

// bootID names this run of the kernel, "" where it can't be read.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

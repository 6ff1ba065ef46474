// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// savedState is what a broker started with the agent away must know.
type savedState struct {
	Boot       string         `json:"boot,omitempty"` // since when the kernel counts cookies
	Exceptions []netip.Prefix `json:"exceptions,omitempty"`
	Drain      time.Duration  `json:"drain,omitempty"` // as wire.Settings has it
	Pods       []savedPod     `json:"pods"`
}

// savedPod is one capture, with what tells its namespace and listeners from others.
type savedPod struct {
	Capture    wire.Capture       `json:"capture"`
	Cookie     uint64             `json:"netnsCookie,omitempty"`
	Listeners  [wire.Kinds]uint64 `json:"listenerCookies"`
	Sysctls    map[string]string  `json:"sysctls,omitempty"` // values before capture
	DrainUntil time.Time          `json:"drainUntil,omitzero"`
}

const stateFile = "captures.json"

// loadState reads the state; a missing file is an empty state.
func loadState(dir string) (savedState, error) {
	var s savedState
	b, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("load captures: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return savedState{}, fmt.Errorf("load captures from %s: %w (the agent will send them again)", dir, err)
	}
	if s.Boot != bootID() {
		// A directory that outlived the kernel: by now the cookies are other pods'.
		for i := range s.Pods {
			s.Pods[i] = savedPod{Capture: s.Pods[i].Capture, DrainUntil: s.Pods[i].DrainUntil}
		}
	}
	return s, nil
}

// saveState replaces the file whole.
func saveState(dir string, s savedState) error {
	s.Boot = bootID()
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("save captures: %w", err)
	}
	tmp := filepath.Join(dir, "."+stateFile)
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("save captures: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, stateFile)); err != nil {
		return fmt.Errorf("save captures: %w", err)
	}
	return nil
}

// bootID names this run of the kernel, "" where it can't be read.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Namespaces is how the agent last saw the cluster's namespaces. The plugin reads it while no agent answers.
type Namespaces struct {
	Version  int      `json:"version"`
	Enrolled []string `json:"enrolled"` // with pods that belong to the mesh, by the namespace's word or their own
	Excluded []string `json:"excluded"` // never captured
	Outside  []string `json:"outside"`  // the others that exist
}

// Standing is what a namespace is to the mesh.
type Standing uint8

// The standings.
const (
	NamespaceUnknown Standing = iota
	NamespaceEnrolled
	NamespaceExcluded
	NamespaceOutside
)

// Of returns a namespace's standing.
func (n Namespaces) Of(name string) Standing {
	switch {
	case slices.Contains(n.Excluded, name):
		return NamespaceExcluded
	case slices.Contains(n.Enrolled, name):
		return NamespaceEnrolled
	case slices.Contains(n.Outside, name):
		return NamespaceOutside
	}
	return NamespaceUnknown
}

// Equal reports whether both say the same.
func (n Namespaces) Equal(o Namespaces) bool {
	return slices.Equal(n.Enrolled, o.Enrolled) && slices.Equal(n.Excluded, o.Excluded) && slices.Equal(n.Outside, o.Outside)
}

// SandboxesDir is where the agent keeps what was announced, below its state directory.
const SandboxesDir = "sandboxes"

const (
	namespacesFile = "namespaces.json"
	maxNamespaces  = 32 << 20 // bytes of the file: half a million namespaces
)

// ReadNamespaces reads the cache below a directory. A missing file is an error: it is not known then who is enrolled.
func ReadNamespaces(dir string) (Namespaces, error) {
	f, err := os.Open(filepath.Join(dir, namespacesFile))
	if err != nil {
		return Namespaces{}, fmt.Errorf("read cached namespaces: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxNamespaces+1))
	if err == nil && len(b) > maxNamespaces {
		err = ErrTooLong
	}
	var n Namespaces
	if err == nil {
		err = Decode(b, &n)
	}
	if err != nil {
		return Namespaces{}, fmt.Errorf("read cached namespaces %s: %w", f.Name(), err)
	}
	return n, nil
}

// WriteNamespaces replaces the cache whole, and makes the directory. It lasts over a power cut: a node's first pods
// start before its agent.
func WriteNamespaces(dir string, n Namespaces) error {
	n.Version = Version
	b, err := json.Marshal(n)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = replace(filepath.Join(dir, namespacesFile), b)
	}
	if err != nil {
		return fmt.Errorf("cache namespaces: %w", err)
	}
	return nil
}

// onItsWay is how young a file on its way into place may be another process's that still writes it.
const onItsWay = time.Minute

func replace(path string, b []byte) error {
	temporary := "." + filepath.Base(path) + "-*"
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), temporary))
	for _, l := range left { // of processes that were killed meanwhile
		if st, err := os.Lstat(l); err == nil && time.Since(st.ModTime()) > onItsWay {
			_ = os.Remove(l)
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), temporary)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone under this name when all went well
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

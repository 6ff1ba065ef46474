// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/warren-mesh/warren/mesh/cni"
)

// Entry is what the plugin is told by its entry in the network's configuration.
type Entry struct {
	RunDir             string        // of the agent's socket, as the runtime sees it
	StateDir           string        // of the cached namespaces, as the runtime sees it
	Deadline           time.Duration // how long a pod's start may wait
	ExcludedNamespaces []string      // whose pods nobody need be asked about
}

func (e Entry) marshal() ([]byte, error) {
	return json.Marshal(struct {
		Type               string   `json:"type"`
		RunDir             string   `json:"runDir,omitempty"`
		StateDir           string   `json:"stateDir,omitempty"`
		Deadline           string   `json:"deadline,omitempty"`
		ExcludedNamespaces []string `json:"excludedNamespaces,omitempty"`
	}{cni.PluginName, e.RunDir, e.StateDir, e.Deadline.String(), e.ExcludedNamespaces})
}

// The functions below change a network configuration list as text: whatever its owner wrote, in whatever order and
// with whatever spaces, stays, and what was put in can be taken out to the byte.

// span is one plugin's place in the text.
type span struct {
	start, end int
	kind       string
}

// list is a configuration list: where its array of plugins begins, and its elements.
type list struct {
	open    int // behind the bracket
	plugins []span
}

var errNoList = errors.New("not a network configuration list with plugins")

func parseList(b []byte) (list, error) {
	if !json.Valid(b) {
		return list{}, fmt.Errorf("%w: not JSON, or only a part of it", errNoList)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return list{}, errNoList
	}
	var out list
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return list{}, err
		}
		if key != "plugins" {
			var skip json.RawMessage
			if err := d.Decode(&skip); err != nil {
				return list{}, err
			}
			continue
		}
		if out.open != 0 {
			return list{}, fmt.Errorf("%w: it has \"plugins\" twice", errNoList)
		}
		if t, err := d.Token(); err != nil || t != json.Delim('[') {
			return list{}, errNoList
		}
		out.open = int(d.InputOffset())
		for d.More() {
			var raw json.RawMessage
			if err := d.Decode(&raw); err != nil {
				return list{}, err
			}
			var p struct {
				Type string `json:"type"`
			}
			if err := json.Unmarshal(raw, &p); err != nil {
				return list{}, fmt.Errorf("%w: %w", errNoList, err)
			}
			end := int(d.InputOffset())
			out.plugins = append(out.plugins, span{start: end - len(raw), end: end, kind: p.Type})
		}
		if _, err := d.Token(); err != nil {
			return list{}, err
		}
	}
	if len(out.plugins) == 0 {
		return list{}, errNoList
	}
	return out, nil
}

func (l list) ours() int {
	return slices.IndexFunc(l.plugins, func(s span) bool { return s.kind == cni.PluginName })
}

// insert puts the entry behind the other plugins, in the same layout. An entry that is there already is replaced
// where it stands, if replace says so.
func insert(b, entry []byte, replace bool) ([]byte, error) {
	l, err := parseList(b)
	if err != nil {
		return nil, err
	}
	if i := l.ours(); i >= 0 {
		s := l.plugins[i]
		if !replace || bytes.Equal(b[s.start:s.end], entry) {
			return b, nil
		}
		return slices.Concat(b[:s.start], entry, b[s.end:]), nil
	}
	last := l.plugins[len(l.plugins)-1]
	from := l.open
	if n := len(l.plugins); n > 1 {
		from = l.plugins[n-2].end
	}
	space := bytes.Trim(b[from:last.start], ",")
	if bytes.ContainsRune(space, ',') {
		space = nil // " , ": spaces before a comma
	}
	return slices.Concat(b[:last.end], []byte(","), space, entry, b[last.end:]), nil
}

// cut takes the entry out, and reports whether there was one.
func cut(b []byte) ([]byte, bool, error) {
	l, err := parseList(b)
	if err != nil {
		return nil, false, err
	}
	i := l.ours()
	if i < 0 {
		return b, false, nil
	}
	s := l.plugins[i]
	switch {
	case i > 0:
		s.start = l.plugins[i-1].end
	case len(l.plugins) > 1:
		s.end = l.plugins[1].start
	}
	return slices.Concat(b[:s.start], b[s.end:]), true, nil
}

// wrap makes a list of a configuration of one plugin, with the entry behind it.
func wrap(b, entry []byte) ([]byte, error) {
	var one struct {
		CNIVersion string `json:"cniVersion,omitempty"`
		Name       string `json:"name"`
		Type       string `json:"type"`
	}
	if err := json.Unmarshal(b, &one); err != nil {
		return nil, fmt.Errorf("not a network configuration: %w", err)
	}
	if one.Type == "" {
		return nil, errors.New("not a network configuration: no type")
	}
	return json.MarshalIndent(struct {
		CNIVersion string            `json:"cniVersion,omitempty"`
		Name       string            `json:"name"`
		Plugins    []json.RawMessage `json:"plugins"`
	}{one.CNIVersion, one.Name, []json.RawMessage{b, entry}}, "", "  ")
}

// spoken returns an error if a configuration is of a version that the plugin does not speak: chained in it, the plugin
// would fail every pod of the node.
func spoken(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var c struct {
		CNIVersion  string   `json:"cniVersion"`
		CNIVersions []string `json:"cniVersions"` // the runtime chooses
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return nil //nolint:nilerr // who edits it says what is wrong
	}
	for _, v := range append(c.CNIVersions, c.CNIVersion) {
		if v != "" && !slices.Contains(cni.SpecVersions(), v) {
			return fmt.Errorf("%s is of cniVersion %s, and %s speaks %s: no pod of the node would start", path, v, cni.PluginName, strings.Join(cni.SpecVersions(), ", "))
		}
	}
	return nil
}

// handsOn reports whether a file holds a single plugin that has another of the directory's configurations connect pods.
func handsOn(path string) bool {
	if filepath.Ext(path) == ".conflist" {
		return false
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	var one struct {
		Type string `json:"type"`
	}
	return json.Unmarshal(b, &one) == nil && (one.Type == "multus" || one.Type == "multus-shim")
}

// sameButEntry reports whether two lists are the same apart from the entry, which both have.
func sameButEntry(a, b []byte) bool {
	a, inA, errA := cut(a)
	b, inB, errB := cut(b)
	var ca, cb bytes.Buffer
	return inA && inB && errA == nil && errB == nil && json.Compact(&ca, a) == nil && json.Compact(&cb, b) == nil && bytes.Equal(ca.Bytes(), cb.Bytes())
}

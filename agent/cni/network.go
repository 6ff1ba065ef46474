// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/warren-mesh/warren/mesh/cni"
)

// errElsewhere means that the network's own plugin is not where ours would be.
var errElsewhere = errors.New("the runtime must be looking for plugins elsewhere, and with warren-cni in it no pod of the node would start")

// networkPlugin is the type of the plugin that makes a configuration's network: the first one that is not ours. "": none.
func networkPlugin(b []byte) string {
	if l, err := parseList(b); err == nil {
		i := slices.IndexFunc(l.plugins, func(s span) bool { return s.kind != cni.PluginName })
		if i < 0 {
			return ""
		}
		return l.plugins[i].kind
	}
	var one struct {
		Type string `json:"type"`
	}
	_ = json.Unmarshal(b, &one) // who edits it says what is wrong
	return one.Type
}

// beside requires the network's own plugin where ours is. Nobody tells which directories the runtime looks in; but the
// network works, so it finds that one, and whatever lies beside it. The plugins chained behind it need not be there: a
// runtime may look in several directories, and have those of the distribution in another one.
func (i Installer) beside(primary string) error {
	if i.BinDir == "" {
		return nil // who else installs the binary knows where
	}
	b, err := os.ReadFile(primary)
	if err != nil {
		return err
	}
	plugin := networkPlugin(b)
	if plugin == "" || isPlugin(i.BinDir, plugin) {
		return nil
	}
	return fmt.Errorf("%s has pods connected by %s, which is not in %s: %w (set the chart's node.cniBinDir, that is the agent's --cni-bin-dir, to the directory that has it)",
		primary, plugin, i.BinDir, errElsewhere)
}

// isPlugin reports whether the runtime could find a plugin in a directory. A link counts wherever it leads: k3s has all
// its plugins as links to a directory beside this one, which the agent does not see.
func isPlugin(dir, name string) bool {
	if strings.ContainsRune(name, filepath.Separator) {
		return false // the runtime finds no such plugin either
	}
	st, err := os.Lstat(filepath.Join(dir, name))
	return err == nil && (st.Mode().IsRegular() || st.Mode().Type() == fs.ModeSymlink)
}

// patience is how long the network's plugin may be missing before the entry is taken out. An upgrade of the network that
// removes a plugin before it writes the new one must not take it out: while the plugin is missing no pod starts anyway,
// and the first one after that would start uncaptured. A directory that turns out to be the wrong one, on the other hand,
// stops every pod of the node while the entry is in, also the ones that would bring the right one.
const patience = 2 * lookAgain

// absence is since when the network's plugin has been missing; zero: it is there.
type absence struct{ since time.Time }

// lasts takes what a look found, and reports whether patience is over.
func (a *absence) lasts(now time.Time, missing bool) bool {
	if !missing {
		a.since = time.Time{}
		return false
	}
	if a.since.IsZero() {
		a.since = now
	}
	return now.Sub(a.since) >= patience
}

// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strconv"
	"time"

	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/cni"
)

// newGeneration names one start of the agent; later starts sort after earlier ones.
func newGeneration() string { return strconv.FormatInt(time.Now().UnixNano(), 36) }

// newest reports whether no agent made its socket for the plugin later than the one whose socket this is.
func newest(dir, socket string) bool {
	paths, err := broker.SocketPaths(dir, "agent", cni.SocketPart)
	return err != nil || len(paths) == 0 || paths[0] == socket
}

// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strconv"
	"time"
)

// newGeneration names one start of the agent; later starts sort after earlier ones.
func newGeneration() string { return strconv.FormatInt(time.Now().UnixNano(), 36) }

// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"cmp"
	"time"
)

// Config is what both roles can be told. The zero value is what production uses.
type Config struct {
	// MaxStreams is how many streams a server lets its peer have open at once; default 4096.
	MaxStreams uint32
	// HeaderLimit bounds a header list in bytes, as RFC 9113 section 6.5.2 counts them, and the block that
	// carries it; default 64 KiB in a server, 16 KiB in a client.
	HeaderLimit int
	// PingInterval is how often a connection with streams or not is asked for a sign of life; default 10 s.
	PingInterval time.Duration
	// PingTimeout is how long the sign of life may take before the connection is lost; default 20 s.
	PingTimeout time.Duration
	// Budget bounds received bytes that applications have not taken yet; nil is a budget of 64 MiB for this
	// connection alone. Share one among the connections of a pod.
	Budget *Budget
}

func (c Config) withDefaults(client bool) Config {
	limit := 64 << 10
	if client {
		limit = 16 << 10
	}
	c.MaxStreams = cmp.Or(c.MaxStreams, 4096)
	c.HeaderLimit = cmp.Or(c.HeaderLimit, limit)
	c.PingInterval = cmp.Or(c.PingInterval, 10*time.Second)
	c.PingTimeout = cmp.Or(c.PingTimeout, 20*time.Second)
	if c.Budget == nil {
		c.Budget = NewBudget(64 << 20)
	}
	return c
}

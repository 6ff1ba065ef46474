// SPDX-License-Identifier: Apache-2.0

package proxy

import "time"

// drainTime is how long connections may live on, as the mesh's configuration says now.
func (p *Proxy) drainTime() time.Duration {
	return p.cfg.Store.Snapshot().Config().DrainOr(p.cfg.Drain)
}

// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"context"
	"time"
)

// certificatesWait is how long a new ztunnel waits for the certificates of the pods it was told of, once it was. Longer
// than the authority takes to restart; its end is for a node that comes up while there is none: nothing may hang on it.
const certificatesWait = 30 * time.Second

// takeOver has the process ready, and accepting where another ztunnel did so far, once it can serve as well as that other
// one: with the certificates of all pods it was told of at the start. Both accept from the same listeners, so that what came
// to this one earlier would wait for a certificate here while the other has it.
func (z *ZTunnel) takeOver(ctx context.Context) error {
	for _, known := range []<-chan struct{}{z.wds.Ready(), z.podsKnown} {
		select {
		case <-known:
		case <-ctx.Done():
			return nil
		}
	}
	waiting, cancel := context.WithTimeout(ctx, z.certificatesWait)
	defer cancel()
	began := time.Now()
	missing := z.ids.Warm(waiting)
	if ctx.Err() != nil {
		return nil
	}
	if len(missing) > 0 {
		z.cfg.Log.Warn("certificates are missing; serving without them: connections of their pods wait, and then fail",
			"missing", len(missing), "first", missing[0].String(), "waited", time.Since(began).Round(time.Millisecond))
	} else {
		z.cfg.Log.Info("certificates are here", "took", time.Since(began).Round(time.Millisecond), "successor", z.cfg.Successor)
	}
	z.proxy.TakeOver()
	z.ready.Done(taskCertificates)
	return nil
}

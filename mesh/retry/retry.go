// SPDX-License-Identifier: Apache-2.0

// Package retry spaces attempts, so that many clients of one server that comes back don't come back at once.
package retry

import (
	"context"
	"math/rand/v2"
	"time"
)

// Delay is how long to wait after the given number of failures in a row, counted from 0: it doubles from least to
// most, and up to half of it is taken off by lot. least and most are positive.
func Delay(failures int, least, most time.Duration) time.Duration {
	d := most
	if failures < 20 { // beyond that the shift alone is hours
		d = min(d, least<<failures)
	}
	return d - rand.N(d/2+1)
}

// Wait waits for d, and returns ctx's error if it ends before.
func Wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

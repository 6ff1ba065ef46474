// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"time"
)

// quantiles that are reported.
var quantiles = [4]struct {
	metric string
	share  float64
}{{"p50_us", 0.5}, {"p90_us", 0.9}, {"p99_us", 0.99}, {"p999_us", 0.999}}

// latencies of the requests of one run.
type latencies []time.Duration

// quantiles sorts l. Of none they are zero.
func (l latencies) quantiles() (out [4]time.Duration) {
	if len(l) == 0 {
		return out
	}
	slices.Sort(l)
	for i, q := range quantiles {
		out[i] = l[min(int(q.share*float64(len(l))), len(l)-1)]
	}
	return out
}

// SPDX-License-Identifier: Apache-2.0

package retry

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestDelayDoublesUpToTheMostAndIsDrawnByLot(t *testing.T) {
	const least, most = 10 * time.Millisecond, 15 * time.Second
	for failures, full := range map[int]time.Duration{0: least, 1: 2 * least, 5: 32 * least, 12: most, 40: most, 1000: most} {
		seen := map[time.Duration]bool{}
		for range 200 {
			d := Delay(failures, least, most)
			if d < full/2 || d > full {
				t.Fatalf("after %d failures %v, want between %v and %v", failures, d, full/2, full)
			}
			seen[d] = true
		}
		if len(seen) < 2 {
			t.Errorf("after %d failures always the same delay", failures)
		}
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Wait(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := Wait(t.Context(), 1); err != nil {
		t.Errorf("got %v", err)
	}
}

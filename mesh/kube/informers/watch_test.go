// SPDX-License-Identifier: Apache-2.0

package informers

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/clock"
)

func TestPausesEndEarly(t *testing.T) {
	gone := errors.New("connection refused")
	log := slog.New(slog.DiscardHandler)
	for name, end := range map[string]func(b *board, cancel func()){
		"with the context": func(_ *board, cancel func()) { cancel() },
		"when another kind is watched again": func(b *board, _ func()) {
			b.kinds[0].answered(context.Background(), gone, log)
			b.kinds[0].answered(context.Background(), nil, log)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBoard(time.Now, before(""))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			p := pausing{WithTicker: clock.RealClock{}, ctx: ctx, board: b}
			ch := p.After(time.Hour)
			b.kinds[1].answered(ctx, nil, log) // an answer like any other ends no pause
			select {
			case <-ch:
				t.Fatal("ended at once")
			default:
			}
			end(b, cancel)
			select {
			case <-ch:
			case <-time.After(10 * time.Second):
				t.Fatal("it goes on")
			}
			if name == "when another kind is watched again" {
				select {
				case <-p.After(10 * time.Millisecond):
				case <-time.After(10 * time.Second):
					t.Fatal("a later pause never ends")
				}
			}
		})
	}
}

// TestPausesDoubleAndAreDrawnByLot: a thousand nodes that lost the server in one moment do not come back in one.
func TestPausesDoubleAndAreDrawnByLot(t *testing.T) {
	for n, full := range map[int]time.Duration{1: backoffFirst, 2: 2 * backoffFirst, 3: 4 * backoffFirst, 20: backoffCap, 60: backoffCap} {
		seen := map[time.Duration]bool{}
		for range 50 {
			var d time.Duration
			b := pauses()
			for range n {
				d = b.Step()
			}
			if d < full || d > 2*full {
				t.Fatalf("pause %d is %v, want %v to %v", n, d, full, 2*full)
			}
			seen[d] = true
		}
		if len(seen) < 2 {
			t.Errorf("pause %d is always the same", n)
		}
	}
}

// The same trouble is told once, whatever the request's URL.
func TestAnErrorIsLoggedOnce(t *testing.T) {
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, nil))
	c := newBoard(time.Now, before("")).kinds[0]
	for i := range 3 {
		c.answered(t.Context(), &url.Error{Op: "Get", URL: strings.Repeat("x", i), Err: errors.New("refused")}, log)
	}
	if n := strings.Count(out.String(), "refused"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, out.String())
	}
}

// SPDX-License-Identifier: Apache-2.0

package latest

import (
	"context"
	"testing"
)

type word struct{ key, text string }

func keyOf(w word) string { return w.key }

func TestNewestValueInOrderOfFirstArrival(t *testing.T) {
	q := New(keyOf)
	for _, w := range []word{{"a", "old"}, {"b", "only"}, {"a", "new"}} {
		q.Put(w)
	}
	go q.Run(t.Context())
	for _, want := range []word{{"a", "new"}, {"b", "only"}} {
		if got := <-q.Out(); got != want {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
	q.Put(word{"a", "again"})
	if got := <-q.Out(); got.text != "again" {
		t.Fatalf("got %v after it was read once", got)
	}
}

func TestWhatWasNotReadStaysForTheNextRun(t *testing.T) {
	q := New(keyOf)
	q.Put(word{"a", "first"})
	q.Put(word{"b", "second"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	q.Run(ctx) // may have taken the first value in hand
	go q.Run(t.Context())
	for _, want := range []string{"first", "second"} {
		if got := <-q.Out(); got.text != want {
			t.Fatalf("got %v, want %s", got, want)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
)

// page is a publisher that keeps the last word per name, as a file does.
type page struct {
	mu    sync.Mutex
	down  bool
	tried int
	last  map[mesh.Name]string // uid and value
}

func (p *page) PublishCaptured(_ context.Context, pod mesh.Name, uid, value string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tried++
	if p.down {
		return errors.New("down")
	}
	p.last[pod] = uid + " " + value
	return nil
}

func (p *page) PublishCondition(context.Context, string, kube.Condition) error { return nil }

func (p *page) ForgetCondition(context.Context, string, string) error { return nil }

// What could not be written of a pod must not replace what is written of the pod that took its name.
func TestPublisherForgetsThePodBefore(t *testing.T) {
	name := mesh.Name{Namespace: "shop", Name: "db-0"}
	for range 20 { // maps have no order
		to := &page{down: true, last: map[mesh.Name]string{}}
		p := newPublisher(to, slog.New(slog.DiscardHandler))
		p.put(kube.LocalPod{UID: "old", Namespace: name.Namespace, Name: name.Name}, "Failed")
		if p.flush(t.Context(), t0).IsZero() {
			t.Fatal("written to a page that is down")
		}
		p.put(kube.LocalPod{UID: "new", Namespace: name.Namespace, Name: name.Name}, captured)
		to.down = false
		if !p.flush(t.Context(), t0).IsZero() || to.last[name] != "new true" {
			t.Fatalf("published: %q", to.last[name])
		}
	}
}

// An API server that refuses a pod is asked ever more seldom, and who looks finds why; the other pods don't wait for it.
func TestPublisherBacksOff(t *testing.T) {
	var log bytes.Buffer
	to := &page{down: true, last: map[mesh.Name]string{}}
	p := newPublisher(to, slog.New(slog.NewTextHandler(&log, nil)))
	p.put(kube.LocalPod{UID: "u1", Namespace: "shop", Name: "db-0"}, captured)
	now := t0
	for n := 1; n <= 20; n++ {
		next := p.flush(t.Context(), now)
		most := min(publishAgain<<(n-1), publishSeldom)
		if pause := next.Sub(now); pause < most/2 || pause > most {
			t.Fatalf("after failure %d a pause of %v, want between %v and %v", n, pause, most/2, most)
		}
		if p.flush(t.Context(), next.Add(-1)); to.tried != n {
			t.Fatalf("%d attempts, want %d", to.tried, n)
		}
		now = next
	}
	if why, failed := p.failures(); why["u1"] != "down" || failed != 20 {
		t.Errorf("to be seen: %v, %d", why, failed)
	}
	if got := strings.Count(log.String(), "not published"); got != 1 {
		t.Errorf("%d lines:\n%s", got, log.String())
	}
	to.down = false
	p.put(kube.LocalPod{UID: "u2", Namespace: "shop", Name: "db-1"}, captured)
	if p.flush(t.Context(), now.Add(-1)); to.last[mesh.Name{Namespace: "shop", Name: "db-1"}] != "u2 true" {
		t.Error("another pod waited")
	}
	if !p.flush(t.Context(), now).IsZero() {
		t.Error("something is left")
	}
	if why, _ := p.failures(); len(why) != 0 {
		t.Errorf("left: %v", why)
	}
}

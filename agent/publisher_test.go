// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
)

// page is a publisher that keeps the last word per name, as a file does.
type page struct {
	down bool
	last map[mesh.Name]string // uid and value
}

func (p *page) PublishCaptured(_ context.Context, pod mesh.Name, uid, value string) error {
	if p.down {
		return errors.New("down")
	}
	p.last[pod] = uid + " " + value
	return nil
}

func (p *page) PublishCondition(context.Context, string, kube.Condition) error { return nil }

// What could not be written of a pod must not replace what is written of the pod that took its name.
func TestPublisherForgetsThePodBefore(t *testing.T) {
	name := mesh.Name{Namespace: "shop", Name: "db-0"}
	for range 20 { // maps have no order
		to := &page{down: true, last: map[mesh.Name]string{}}
		p := newPublisher(to, slog.New(slog.DiscardHandler))
		p.put(kube.LocalPod{UID: "old", Namespace: name.Namespace, Name: name.Name}, "Failed")
		if p.flush(t.Context()) {
			t.Fatal("written to a page that is down")
		}
		p.put(kube.LocalPod{UID: "new", Namespace: name.Namespace, Name: name.Name}, captured)
		to.down = false
		if !p.flush(t.Context()) || to.last[name] != "new true" {
			t.Fatalf("published: %q", to.last[name])
		}
	}
}

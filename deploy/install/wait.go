// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
)

// waitInterval is how often the cluster is looked at.
const waitInterval = 500 * time.Millisecond

// waitUntil looks until nothing is pending or ctx ends; what is pending is told whenever that changes.
func waitUntil(ctx context.Context, w io.Writer, look func(context.Context) (pending []string, err error)) error {
	t := time.NewTicker(waitInterval)
	defer t.Stop()
	last := ""
	for {
		pending, err := look(ctx)
		if err == nil && len(pending) == 0 {
			return nil
		}
		if err != nil {
			pending = []string{err.Error()}
		}
		if text := strings.Join(pending, "; "); text != last && ctx.Err() == nil {
			last = text
			progress(w, "waiting: %s", text)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; still waiting for: %s", context.Cause(ctx), last)
		case <-t.C:
		}
	}
}

// lookWithin bounds one look: an API server that does not answer is no way forward.
const lookWithin = 30 * time.Second

// waitReady waits for every pod of the release on every node that is ready, and returns the other nodes, whose pods can't
// run. It gives up when nothing has gone forward for as long as limit.
func waitReady(ctx context.Context, client kubernetes.Interface, limit time.Duration, w io.Writer) (away []string, err error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	p := newPatience(limit, time.Now())
	err = waitUntil(ctx, w, func(ctx context.Context) ([]string, error) {
		ctx, cancel := context.WithTimeout(ctx, lookWithin)
		defer cancel()
		r, err := lookAt(ctx, client)
		if p.ends(time.Now(), r.parts) {
			giveUp(fmt.Errorf("nothing has gone forward for %v", limit))
		}
		if err != nil {
			return nil, err
		}
		if !slices.Equal(away, r.away) && len(r.away) > 0 {
			progress(w, "not waited for, since they are not ready: %s", strings.Join(r.away, ", "))
		}
		away = r.away
		return r.pending(), nil
	})
	return away, err
}

// trouble is what pods that can't start say about it, each complaint once.
func trouble(pods []corev1.Pod) []string {
	var out []string
	add := func(s string) {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	for _, p := range pods {
		for _, c := range p.Status.Conditions {
			switch {
			case c.Status == corev1.ConditionTrue:
			case c.Type == corev1.PodScheduled:
				add(p.Labels["app.kubernetes.io/name"] + " can't be scheduled: " + c.Message)
			case c.Type == corev1.ContainersReady && p.DeletionTimestamp == nil:
				add(fmt.Sprintf("%s on %s: %s", p.Name, p.Spec.NodeName, c.Message))
			}
		}
		for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			if s := c.State.Waiting; s != nil && s.Reason != "ContainerCreating" && s.Reason != "PodInitializing" {
				add(fmt.Sprintf("%s/%s: %s %s", p.Name, c.Name, s.Reason, s.Message))
			}
		}
	}
	return out
}

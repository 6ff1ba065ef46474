// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"fmt"
	"slices"
	"strings"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"

	"github.com/warren-mesh/warren/mesh"
)

// maxReason bounds the text of a rejection, in bytes: the server logs it.
const maxReason = 4096

// respond applies a response as one step and returns its acknowledgement, or the rejection that names what
// was left out.
func (c *Client) respond(r *discovery.DeltaDiscoveryResponse, store *mesh.Store) *discovery.DeltaDiscoveryRequest {
	ack := &discovery.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}
	have := c.have[r.GetTypeUrl()]
	if have == nil {
		ack.ErrorDetail = rejection([]error{fmt.Errorf("type %q was not asked for", r.GetTypeUrl())})
		return ack
	}
	if errs := c.apply(r, have, store); len(errs) > 0 {
		ack.ErrorDetail = rejection(errs)
		c.cfg.Log.Warn("rejected resources", "type", r.GetTypeUrl(), "err", ack.ErrorDetail.Message)
	}
	if delete(c.waiting, r.GetTypeUrl()); len(c.waiting) == 0 {
		c.once.Do(func() { close(c.ready) })
	}
	return ack
}

func rejection(errs []error) *status.Status {
	var b strings.Builder
	for i, err := range errs {
		if b.Len() > maxReason {
			fmt.Fprintf(&b, "; and %d more", len(errs)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(strings.ToValidUTF8(err.Error(), "?"))
	}
	return &status.Status{Code: int32(codes.InvalidArgument), Message: b.String()}
}

// apply brings a response into the store and into have, and returns why it left out what it left out: of
// that the last good version stays.
func (c *Client) apply(r *discovery.DeltaDiscoveryResponse, have map[string]string, store *mesh.Store) []error {
	var changes []mesh.Change
	var errs []error
	for _, name := range r.RemovedResources {
		if _, ok := have[name]; !ok {
			continue
		}
		changes = append(changes, removal(r.TypeUrl, name))
		delete(have, name)
	}
	for _, res := range r.Resources {
		change, err := decode(r.TypeUrl, res)
		version := res.GetVersion()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", res.GetName(), err))
			if change == nil || have[res.GetName()] != "" {
				continue
			}
			version = "" // a stand-in; on the next connection the server sends the real one again
		}
		changes = append(changes, change)
		have[res.GetName()] = version
	}
	if len(changes) > 0 {
		now := c.cfg.Now()
		store.Update(func(old *mesh.Snapshot) []mesh.Change { return stamped(old, changes, now) })
	}
	return errs
}

func removal(typeURL, name string) mesh.Change {
	switch typeURL {
	case TypeConfig:
		return mesh.PutConfig{Config: closed}
	case TypeAuthorization:
		n, _ := mesh.ParseName(name) // it was read when it came
		return mesh.DeletePolicy{Name: n}
	}
	if n, err := parseServiceKey(name); err == nil {
		return mesh.DeleteService{Name: n}
	}
	return mesh.DeleteWorkload{UID: name}
}

// stamped returns the changes with CapturedAt filled in. A capture that began while this process watched is
// dated: by the sender where it says so (never in the future), else by now. One that stood from the
// beginning has no date, and grants no grace.
func stamped(old *mesh.Snapshot, changes []mesh.Change, now time.Time) []mesh.Change {
	out := slices.Clone(changes)
	for i, c := range out {
		put, ok := c.(mesh.PutWorkload)
		if !ok {
			continue
		}
		w := *put.Workload
		w.CapturedAt = capturedAt(old.Workload(w.UID), &w, now)
		out[i] = mesh.PutWorkload{Workload: &w}
	}
	return out
}

func capturedAt(before, w *mesh.Workload, now time.Time) time.Time {
	switch {
	case w.Capture != mesh.Captured:
		return time.Time{}
	case before != nil && before.Capture == mesh.Captured && before.PodUID == w.PodUID:
		return before.CapturedAt
	case !w.CapturedAt.IsZero():
		if w.CapturedAt.After(now) {
			return now
		}
		return w.CapturedAt
	case before != nil && before.PodUID == w.PodUID:
		return now
	default:
		return time.Time{}
	}
}

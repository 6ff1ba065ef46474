// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"context"

	"github.com/warren-mesh/warren/mesh/kube"
)

// publishConditions keeps the objects' conditions equal to how they stand.
func (s *Source) publishConditions(ctx context.Context) error {
	if s.publisher == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	select {
	case <-s.synced:
	case <-ctx.Done():
		return ctx.Err()
	}
	return kube.Conditions{Publisher: s.publisher, Objects: s, Published: s.published(), Log: s.log}.Run(ctx, s.told)
}

// published are the conditions that an earlier process left. Those of other types are somebody else's.
func (s *Source) published() map[kube.ConditionKey]kube.Condition {
	all, err := ReadConditions(s.dir)
	if err != nil {
		s.log.Warn("conditions of an earlier process are not known: those of objects that are gone stay", "err", err)
		return nil
	}
	out := map[kube.ConditionKey]kube.Condition{}
	for object, byType := range all {
		for t, c := range byType {
			if t == kube.ConditionAccepted || t == kube.ConditionApplied {
				out[kube.ConditionKey{Object: object, Type: t}] = c
			}
		}
	}
	return out
}

// MeshConfig returns how the cluster's MeshConfig stands.
func (s *Source) MeshConfig() kube.MeshConfigState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meshConfig
}

// UID reports whether a manifest has the object, refused or not. Objects in files have no uid.
func (s *Source) UID(object string) (uid string, there bool) {
	k, ok := kube.ParseKey(object)
	s.mu.Lock()
	defer s.mu.Unlock()
	return "", !ok || s.wanted[k] != nil
}

// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"strings"
	"time"
)

// SourceStatus is how fresh what a source of objects gives is.
type SourceStatus struct {
	// Synced: the store holds something. Stale: that is the snapshot on disk, written at Written.
	Synced  bool         `json:"synced"`
	Stale   bool         `json:"stale"`
	Written time.Time    `json:"snapshotWritten,omitzero"`
	Kinds   []KindStatus `json:"kinds"`
}

// KindStatus is how one kind's watch stands.
type KindStatus struct {
	Kind    string `json:"kind"`
	Objects int    `json:"objects"`
	// Synced: the whole list was read once.
	Synced bool `json:"synced"`
	// Absent: the server has no such kind.
	Absent bool `json:"absent,omitempty"`
	// Contact is when the server last said anything about it, Error why it does not now.
	Contact time.Time `json:"contact,omitzero"`
	Error   string    `json:"error,omitempty"`
}

// Waiting names the kinds that have not been read yet, and why, for people to read; "" when all have.
func (s SourceStatus) Waiting() string {
	var out []string
	for _, k := range s.Kinds {
		switch {
		case k.Synced:
		case k.Error != "":
			out = append(out, k.Kind+": "+k.Error)
		default:
			out = append(out, k.Kind)
		}
	}
	return strings.Join(out, "; ")
}

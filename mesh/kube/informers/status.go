// SPDX-License-Identifier: Apache-2.0

package informers

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Status is how fresh what a Source gives is.
type Status struct {
	// Synced: the store holds something. Stale: that is the snapshot on disk, written at Written.
	Synced  bool      `json:"synced"`
	Stale   bool      `json:"stale"`
	Written time.Time `json:"snapshotWritten,omitzero"`
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

// Status returns how things stand.
func (s *Source) Status() Status {
	s.mu.Lock()
	st := Status{Synced: s.serving != servingNothing, Stale: s.serving == servingStale, Written: s.written}
	s.mu.Unlock()
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	for _, c := range s.board.kinds {
		k := KindStatus{Kind: c.kind.name, Objects: len(c.objects), Synced: c.synced, Absent: !c.absent.IsZero(), Contact: c.contact}
		if c.err != nil {
			k.Error = c.err.Error()
		}
		st.Kinds = append(st.Kinds, k)
	}
	return st
}

var (
	staleDesc   = prometheus.NewDesc("warren_objects_stale", "1 while the mesh is served from the snapshot on disk because the API server is away.", nil, nil)
	syncedDesc  = prometheus.NewDesc("warren_objects_synced", "1 once every object of the kind has been read from the API server.", []string{"kind"}, nil)
	objectsDesc = prometheus.NewDesc("warren_objects", "Objects known, by kind.", []string{"kind"}, nil)
	failingDesc = prometheus.NewDesc("warren_objects_watch_failing", "1 while the kind can't be watched.", []string{"kind"}, nil)
	writtenDesc = prometheus.NewDesc("warren_objects_snapshot_timestamp_seconds", "When the snapshot on disk was written, Unix time; 0 for never.", nil, nil)
)

var _ prometheus.Collector = (*Source)(nil)

// Describe implements prometheus.Collector.
func (s *Source) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{staleDesc, syncedDesc, objectsDesc, failingDesc, writtenDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *Source) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	st := s.Status()
	gauge(staleDesc, number(st.Stale))
	if st.Written.IsZero() {
		gauge(writtenDesc, 0)
	} else {
		gauge(writtenDesc, float64(st.Written.Unix()))
	}
	for _, k := range st.Kinds {
		gauge(syncedDesc, number(k.Synced), k.Kind)
		gauge(objectsDesc, float64(k.Objects), k.Kind)
		gauge(failingDesc, number(k.Error != ""), k.Kind)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

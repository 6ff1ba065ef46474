// SPDX-License-Identifier: Apache-2.0

package informers

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/mesh/kube"
)

// Status returns how things stand.
func (s *Source) Status() kube.SourceStatus {
	s.mu.Lock()
	st := kube.SourceStatus{Synced: s.serving != servingNothing, Stale: s.serving == servingStale, Written: s.written}
	s.mu.Unlock()
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	for _, c := range s.board.kinds {
		k := kube.KindStatus{Kind: c.kind.name, Objects: len(c.objects), Synced: c.synced, Absent: !c.absent.IsZero(), Contact: c.contact}
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

// SPDX-License-Identifier: Apache-2.0

package ca

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	issued  prometheus.Counter
	refused *prometheus.CounterVec
}

// newMetrics registers the authority's metrics; a nil registerer keeps them to itself.
func newMetrics(reg prometheus.Registerer, a *Authority) *metrics {
	m := &metrics{
		issued: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "warren_ca_certificates_issued_total",
			Help: "Certificates issued to nodes for their pods.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "warren_ca_requests_refused_total",
			Help: "Certificate requests refused, by reason.",
		}, []string{"reason"}),
	}
	if reg != nil {
		reg.MustRegister(m.issued, m.refused, state{a})
	}
	return m
}

// state reports, at scrape, what the authority goes by.
type state struct{ a *Authority }

var (
	rootExpiry = prometheus.NewDesc("warren_ca_root_expiry_timestamp_seconds",
		"When a trusted root certificate expires, Unix time.", []string{"root"}, nil)
	issuingExpiry = prometheus.NewDesc("warren_ca_issuing_expiry_timestamp_seconds",
		"When the issuing certificate, or one above it, expires, Unix time: nothing issued outlives it.", nil, nil)
	crlNextUpdate = prometheus.NewDesc("warren_ca_crl_next_update_timestamp_seconds",
		"When the next revocation list is due, Unix time; absent without a list.", nil, nil)
	crlEntries = prometheus.NewDesc("warren_ca_crl_revoked_certificates",
		"Certificates on the revocation lists.", nil, nil)
	problems = prometheus.NewDesc("warren_ca_problem",
		"1 while something is wrong with the authority's files; the log says what.", nil, nil)
	storageFailures = prometheus.NewDesc("warren_ca_storage_failures_total",
		"Looks at the authority's files that failed; what was read before stays.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s state) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{rootExpiry, issuingExpiry, crlNextUpdate, crlEntries, problems, storageFailures} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s state) Collect(ch chan<- prometheus.Metric) {
	m := s.a.current.Load()
	s.a.mu.Lock()
	failed, problem := float64(s.a.failed), 0.0
	if s.a.problem != nil {
		problem = 1
	}
	s.a.mu.Unlock()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, c := range m.roots {
		gauge(rootExpiry, float64(c.NotAfter.Unix()), Fingerprint(c))
	}
	gauge(issuingExpiry, float64(m.until().Unix()))
	if m.crl.lists != nil {
		gauge(crlNextUpdate, float64(m.crl.lists.NextUpdate().Unix()))
	}
	gauge(crlEntries, float64(m.crl.lists.Len()))
	gauge(problems, problem)
	ch <- prometheus.MustNewConstMetric(storageFailures, prometheus.CounterValue, failed)
}

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
	if reg == nil {
		return m
	}
	expiry := func(name, help string, pair func() *keyPair) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			a.mu.RLock()
			defer a.mu.RUnlock()
			return float64(pair().cert.NotAfter.Unix())
		})
	}
	reg.MustRegister(m.issued, m.refused,
		expiry("warren_ca_root_expiry_timestamp_seconds", "When the root certificate expires, Unix time.", func() *keyPair { return a.root }),
		expiry("warren_ca_issuing_expiry_timestamp_seconds", "When the issuing certificate expires, Unix time.", func() *keyPair { return a.issuing }),
	)
	return m
}

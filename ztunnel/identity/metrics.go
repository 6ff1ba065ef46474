// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type metrics struct {
	fetched  prometheus.Counter
	failures *prometheus.CounterVec
	duration prometheus.Histogram
}

// newMetrics registers the store's metrics; a nil registerer keeps them to itself.
func newMetrics(reg prometheus.Registerer, s *Store) *metrics {
	m := &metrics{
		fetched: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "warren_certificates_fetched_total", Help: "Certificates got from the CA.",
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "warren_certificate_fetch_failures_total", Help: "Fetches that failed, by the CA's status or what was wrong with its answer.",
		}, []string{"cause"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "warren_certificate_fetch_duration_seconds", Help: "Time of one fetch.",
			Buckets: prometheus.ExponentialBuckets(0.002, 4, 7),
		}),
	}
	if reg != nil {
		reg.MustRegister(m.fetched, m.failures, m.duration, expiries{s}, trust{s})
	}
	return m
}

// failed counts a failure by a closed set of causes: a gRPC status code's name, or "Answer" for what the CA
// sent and can't be used.
func (m *metrics) failed(err error) {
	var bad *Error
	cause := "Answer"
	if !errors.As(err, &bad) {
		cause = status.Code(err).String()
		if errors.Is(err, context.DeadlineExceeded) {
			cause = codes.DeadlineExceeded.String()
		}
	}
	m.failures.WithLabelValues(cause).Inc()
}

// expiries reports, at scrape, when each wanted identity's certificate expires: as many series as the node
// has service accounts, gone as they go.
type expiries struct{ s *Store }

var expiryDesc = prometheus.NewDesc("warren_certificate_expiry_seconds",
	"Seconds until the certificate expires; negative once it has.", []string{"identity"}, nil)

func (x expiries) Describe(ch chan<- *prometheus.Desc) { ch <- expiryDesc }

func (x expiries) Collect(ch chan<- prometheus.Metric) {
	now := x.s.cfg.Now()
	for _, i := range x.s.Certificates() {
		if !i.NotAfter.IsZero() {
			ch <- prometheus.MustNewConstMetric(expiryDesc, prometheus.GaugeValue, i.NotAfter.Sub(now).Seconds(), i.Identity.String())
		}
	}
}

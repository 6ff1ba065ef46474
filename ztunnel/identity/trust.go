// SPDX-License-Identifier: Apache-2.0

package identity

import "github.com/prometheus/client_golang/prometheus"

// trust reports, at scrape, by what peers are verified, and under which root the certificates here are: the way a
// change of roots goes can be seen in it.
type trust struct{ s *Store }

var (
	rootExpiry = prometheus.NewDesc("warren_trust_root_expiry_seconds",
		"Seconds until a trusted root expires; negative once it has.", []string{"root"}, nil)
	certificatesByRoot = prometheus.NewDesc("warren_certificates",
		"Certificates of workloads here, by the root that verifies them.", []string{"root"}, nil)
	listDue = prometheus.NewDesc("warren_crl_next_update_seconds",
		"Seconds until the next revocation list is due; negative once the present one is out of date. Absent without a list.", nil, nil)
	listed = prometheus.NewDesc("warren_crl_revoked_certificates",
		"Certificates on the revocation lists.", nil, nil)
	readFailures = prometheus.NewDesc("warren_trust_read_failures_total",
		"Reads of trust that failed or were of no use; the last good stays.", []string{"file"}, nil)
)

// Describe implements prometheus.Collector.
func (t trust) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{rootExpiry, certificatesByRoot, listDue, listed, readFailures} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (t trust) Collect(ch chan<- prometheus.Metric) {
	now, r := t.s.cfg.Now(), t.s.cfg.Roots
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	r.mu.Lock()
	for _, file := range []string{"roots", "crl"} {
		ch <- prometheus.MustNewConstMetric(readFailures, prometheus.CounterValue, float64(r.failed[file]), file)
	}
	r.mu.Unlock()
	count := map[string]float64{}
	if b := r.current.Load(); b != nil {
		for _, c := range b.certs {
			gauge(rootExpiry, c.NotAfter.Sub(now).Seconds(), fingerprint(c))
			count[fingerprint(c)] = 0
		}
		if b.lists != nil {
			gauge(listDue, b.lists.NextUpdate().Sub(now).Seconds())
		}
		gauge(listed, float64(b.lists.Len()))
	}
	for _, i := range t.s.Certificates() {
		if i.Root != "" {
			count[i.Root]++
		}
	}
	for root, n := range count {
		gauge(certificatesByRoot, n, root)
	}
}

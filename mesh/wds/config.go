// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/wds/warrenpb"
)

// FromConfig returns the message for c.
func FromConfig(c *mesh.Config) *warrenpb.Config {
	m := &warrenpb.Config{
		TrustDomain: c.TrustDomain, RootNamespace: c.RootNamespace,
		ClusterCidrs:       convert(c.ClusterCIDRs, netip.Prefix.String),
		Exceptions:         convert(c.Exceptions, netip.Prefix.String),
		TrustDomainAliases: c.TrustDomainAliases,
		MtlsStrict:         c.MTLSStrict,
		SameNodeTls:        c.SameNodeTLS,
		DropLabels:         c.DropLabels,
	}
	if c.Drain != 0 {
		m.Drain = durationpb.New(c.DrainOr(0))
	}
	if l := c.AccessLog; l != (mesh.AccessLog{}) {
		m.AccessLog = &warrenpb.AccessLog{Mode: warrenpb.AccessLog_Mode(l.Mode), Format: warrenpb.AccessLog_Format(l.Format)}
	}
	if t := c.Tracing; t != (mesh.Tracing{}) {
		m.Tracing = &warrenpb.Tracing{Otlp: t.OTLP, Zipkin: t.Zipkin, SamplePercent: t.SamplePercent}
	}
	return m
}

// ToConfig returns the configuration a message stands for.
func ToConfig(m *warrenpb.Config) (*mesh.Config, error) {
	c := &mesh.Config{
		TrustDomain: m.GetTrustDomain(), RootNamespace: m.GetRootNamespace(),
		TrustDomainAliases: m.GetTrustDomainAliases(),
		MTLSStrict:         m.GetMtlsStrict(),
		SameNodeTLS:        m.GetSameNodeTls(),
		DropLabels:         m.GetDropLabels(),
		AccessLog:          accessLog(m.GetAccessLog()),
		Tracing: mesh.Tracing{
			OTLP: m.GetTracing().GetOtlp(), Zipkin: m.GetTracing().GetZipkin(), SamplePercent: m.GetTracing().GetSamplePercent(),
		},
	}
	if err := read(&c.ClusterCIDRs, m.GetClusterCidrs(), netip.ParsePrefix); err != nil {
		return nil, fmt.Errorf("cluster_cidrs: %w", err)
	}
	if err := read(&c.Exceptions, m.GetExceptions(), netip.ParsePrefix); err != nil {
		return nil, fmt.Errorf("exceptions: %w", err)
	}
	if d := m.GetDrain(); d != nil {
		if err := d.CheckValid(); err != nil {
			return nil, fmt.Errorf("drain: %w", err)
		}
		if c.Drain = d.AsDuration(); c.Drain <= 0 {
			c.Drain = -1 // not at all; zero is "as the flag says"
		}
	}
	return c, nil
}

// accessLog takes a word of a later version for the first of its kind.
func accessLog(m *warrenpb.AccessLog) (l mesh.AccessLog) {
	if mode := m.GetMode(); mode >= 0 && mode <= warrenpb.AccessLog_OFF {
		l.Mode = mesh.AccessLogMode(mode)
	}
	if format := m.GetFormat(); format >= 0 && format <= warrenpb.AccessLog_JSON {
		l.Format = mesh.AccessLogFormat(format)
	}
	return l
}

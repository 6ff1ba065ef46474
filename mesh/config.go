// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"net/netip"
	"slices"
	"time"
)

// Config is what holds for the whole mesh rather than for one object. The zero value is usable: permissive, no
// alias, everything else as the process's flags say. Immutable: whoever changes one changes a Clone.
type Config struct {
	// TrustDomain of the mesh; "" means DefaultTrustDomain.
	TrustDomain string
	// TrustDomainAliases are trust domains whose identities count as this mesh's own, as in TrustDomain. Sorted,
	// without duplicates.
	TrustDomainAliases []string
	// RootNamespace holds mesh-wide policy; "" means "warren-system".
	RootNamespace string
	// ClusterCIDRs are the pod and service ranges: an address inside that no object explains is not "outside".
	ClusterCIDRs []netip.Prefix
	// Exceptions are never captured: link-local always, and what the operator named.
	Exceptions []netip.Prefix

	// MTLSStrict: plaintext is refused where no PeerAuthentication says otherwise. It is told for pages and people;
	// what refuses is the policy of the root namespace that is converted from it.
	MTLSStrict bool
	// SameNodeTLS: connections between two pods of one node are encrypted like all others.
	SameNodeTLS bool
	// Drain is how long live connections may last after their pod left the mesh or their ztunnel was told to end.
	// 0 means what the process's --drain says; negative: not at all. See DrainOr.
	Drain time.Duration
	// DropLabels are labels left out of the connection metrics, by name. Sorted, without duplicates.
	DropLabels []string
	// AccessLog says which connections have a line, and how it is written.
	AccessLog AccessLog
	// Tracing says where spans go.
	Tracing Tracing
}

// AccessLog is the part of Config for the access log.
type AccessLog struct {
	Mode   AccessLogMode
	Format AccessLogFormat
}

// AccessLogMode says which connections have a line.
type AccessLogMode uint8

const (
	// AccessLogAll: every connection.
	AccessLogAll AccessLogMode = iota
	// AccessLogErrors: those that were refused or did not end in order.
	AccessLogErrors
	// AccessLogOff: none.
	AccessLogOff
)

var accessLogModes = [...]string{"All", "Errors", "Off"}

// String is the mode as MeshConfig writes it.
func (m AccessLogMode) String() string { return word(accessLogModes[:], int(m)) }

// AccessLogFormat says how a line is written.
type AccessLogFormat uint8

const (
	// AccessLogAsFlag: as the process's --log-format says.
	AccessLogAsFlag AccessLogFormat = iota
	// AccessLogText: key=value.
	AccessLogText
	// AccessLogJSON: an object per line.
	AccessLogJSON
)

var accessLogFormats = [...]string{"", "Text", "JSON"}

// String is the format as MeshConfig writes it; "" for AccessLogAsFlag.
func (f AccessLogFormat) String() string { return word(accessLogFormats[:], int(f)) }

// Tracing is the part of Config for spans. Without an endpoint there are none.
type Tracing struct {
	// OTLP is the host:port of an OpenTelemetry collector's gRPC port; "" for none.
	OTLP string
	// Zipkin is the URL that takes Zipkin v2 JSON, "http://zipkin.tracing:9411/api/v2/spans"; "" for none.
	Zipkin string
	// SamplePercent of the connections have a span, 0 to 100. 0 means none; the default of MeshConfig is applied
	// where this is made.
	SamplePercent float64
}

// Enabled reports whether any connection may have a span.
func (t Tracing) Enabled() bool { return (t.OTLP != "" || t.Zipkin != "") && t.SamplePercent > 0 }

// DefaultRootNamespace is where mesh-wide policy lives unless the configuration says otherwise.
const DefaultRootNamespace = "warren-system"

// Clone returns a copy that shares nothing with c.
func (c *Config) Clone() *Config {
	n := *c
	n.TrustDomainAliases = slices.Clone(c.TrustDomainAliases)
	n.ClusterCIDRs = slices.Clone(c.ClusterCIDRs)
	n.Exceptions = slices.Clone(c.Exceptions)
	n.DropLabels = slices.Clone(c.DropLabels)
	return &n
}

// Equal reports whether c and o say the same; a list that is nil equals one that is empty.
func (c *Config) Equal(o *Config) bool {
	return c.TrustDomain == o.TrustDomain && c.RootNamespace == o.RootNamespace &&
		slices.Equal(c.TrustDomainAliases, o.TrustDomainAliases) &&
		slices.Equal(c.ClusterCIDRs, o.ClusterCIDRs) && slices.Equal(c.Exceptions, o.Exceptions) &&
		c.MTLSStrict == o.MTLSStrict && c.SameNodeTLS == o.SameNodeTLS && c.Drain == o.Drain &&
		slices.Equal(c.DropLabels, o.DropLabels) && c.AccessLog == o.AccessLog && c.Tracing == o.Tracing
}

// InCluster reports whether a lies in one of the cluster's ranges.
func (c *Config) InCluster(a netip.Addr) bool { return contains(c.ClusterCIDRs, a) }

// Excepted reports whether a is link-local or lies in a configured exception.
func (c *Config) Excepted(a netip.Addr) bool {
	return a.IsLinkLocalUnicast() || contains(c.Exceptions, a)
}

// OwnTrustDomain reports whether td is the mesh's trust domain or one of its aliases.
func (c *Config) OwnTrustDomain(td string) bool {
	return td == c.trustDomain() || slices.Contains(c.TrustDomainAliases, td)
}

// Canonical returns id with the mesh's own trust domain in place of an alias; any other identity as it is.
func (c *Config) Canonical(id Identity) Identity {
	if slices.Contains(c.TrustDomainAliases, id.TrustDomain) {
		id.TrustDomain = c.trustDomain()
	}
	return id
}

// DrainOr returns how long live connections may last, where flag is what the process's flag says.
func (c *Config) DrainOr(flag time.Duration) time.Duration {
	switch {
	case c.Drain == 0:
		return flag
	case c.Drain < 0:
		return 0
	}
	return c.Drain
}

func (c *Config) trustDomain() string {
	if c.TrustDomain == "" {
		return DefaultTrustDomain
	}
	return c.TrustDomain
}

func contains(ps []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap()
	for _, p := range ps {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func word(words []string, i int) string {
	if i < len(words) {
		return words[i]
	}
	return "unknown"
}

// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/mesh"
)

// Bounds of a MeshConfig's fields, as in the CustomResourceDefinition.
const (
	maxDrain         = 10 * time.Minute
	maxAliases       = 32
	maxPrefixes      = 256
	maxDropLabels    = 32
	maxOTLPEndpoint  = 320
	maxZipkinURL     = 2048
	defaultSampling  = 1 // percent, with an endpoint
	maxTrustDomain   = 255
	samplingComplete = 100
)

var (
	trustDomainWord = regexp.MustCompile(`^[a-z0-9._-]+$`)
	durationWord    = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)
	hostPortWord    = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:.]+\]):([1-9][0-9]{0,4})$`)
)

// ConfigFrom returns base with what a MeshConfig adds and overrides. It refuses what the CustomResourceDefinition
// refuses, for objects that no API server has seen, and then returns nil.
func ConfigFrom(o *v1alpha1.MeshConfig, base *mesh.Config) (*mesh.Config, field.ErrorList) {
	r := configReader{out: base.Clone()}
	spec, s := field.NewPath("spec"), &o.Spec
	if o.Name != v1alpha1.DefaultName {
		r.refuse(field.Invalid(field.NewPath("metadata", "name"), o.Name, "a cluster has one MeshConfig, named "+v1alpha1.DefaultName))
	}
	r.mtls(spec.Child("mtls", "mode"), s.MTLS.Mode)
	r.out.SameNodeTLS = s.SameNodeTLS
	r.aliases(spec.Child("trustDomainAliases"), s.TrustDomainAliases)
	r.out.ClusterCIDRs = sortedPrefixes(append(r.out.ClusterCIDRs, r.prefixes(spec.Child("clusterCIDRs"), s.ClusterCIDRs, false)...))
	r.out.Exceptions = sortedPrefixes(append(r.out.Exceptions, r.prefixes(spec.Child("exceptions"), s.Exceptions, true)...))
	if s.Drain != nil {
		r.drain(spec.Child("drain"), *s.Drain)
	}
	r.dropLabels(spec.Child("metrics", "dropLabels"), s.Metrics.DropLabels)
	r.accessLog(spec.Child("accessLog"), s.AccessLog)
	r.tracing(spec.Child("tracing"), s.Tracing)
	if len(r.errs) > 0 {
		return nil, r.errs
	}
	return r.out, nil
}

// configReader gathers the settings and what is wrong with them.
type configReader struct {
	out  *mesh.Config
	errs field.ErrorList
}

func (r *configReader) refuse(err *field.Error) { r.errs = append(r.errs, err) }

func (r *configReader) mtls(path *field.Path, m v1alpha1.MTLSMode) {
	switch m {
	case "", v1alpha1.MTLSPermissive:
		r.out.MTLSStrict = false
	case v1alpha1.MTLSStrict:
		r.out.MTLSStrict = true
	default:
		r.refuse(field.NotSupported(path, m, []v1alpha1.MTLSMode{v1alpha1.MTLSPermissive, v1alpha1.MTLSStrict}))
	}
}

func (r *configReader) aliases(path *field.Path, in []string) {
	r.atMost(path, len(in), maxAliases)
	for i, td := range in {
		if len(td) > maxTrustDomain || !trustDomainWord.MatchString(td) {
			r.refuse(field.Invalid(path.Index(i), td, "want a trust domain: lower-case letters, digits, dots, dashes and underscores"))
		}
	}
	distinct(r, path, in)
	r.out.TrustDomainAliases = sortedSet(in)
}

// prefixes reads a list of CIDRs. Those for the kernel may not span the IPv4-mapped addresses: they would take all
// of IPv4 with them.
func (r *configReader) prefixes(path *field.Path, in []v1alpha1.CIDR, forKernel bool) (out []netip.Prefix) {
	r.atMost(path, len(in), maxPrefixes)
	for i, c := range in {
		p, err := netip.ParsePrefix(string(c))
		switch {
		case err != nil || p.Addr().Is4In6():
			r.refuse(field.Invalid(path.Index(i), string(c), "want a CIDR such as 10.0.0.0/8 or fd00::/8"))
		case forKernel && spansIPv4(p):
			r.refuse(field.Invalid(path.Index(i), string(c), "an IPv6 prefix that spans the IPv4-mapped addresses (name IPv4 prefixes as IPv4)"))
		default:
			out = append(out, p.Masked())
		}
	}
	distinct(r, path, in)
	return out
}

// spansIPv4 reports whether an IPv6 prefix contains ::ffff:0:0/96.
func spansIPv4(p netip.Prefix) bool {
	return p.Addr().Is6() && p.Masked().Contains(netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff}))
}

func (r *configReader) drain(path *field.Path, v v1alpha1.Duration) {
	d, err := time.ParseDuration(string(v))
	switch {
	case err != nil || !durationWord.MatchString(string(v)):
		r.refuse(field.Invalid(path, string(v), "want a duration such as 25s or 1m30s"))
	case d > maxDrain:
		r.refuse(field.Invalid(path, string(v), "at most 10m"))
	case d == 0:
		r.out.Drain = -1 // zero is "as the flag says"
	default:
		r.out.Drain = d
	}
}

func (r *configReader) dropLabels(path *field.Path, in []v1alpha1.Label) {
	r.atMost(path, len(in), maxDropLabels)
	names := make([]string, len(in))
	for i, l := range in {
		if names[i] = string(l); !slices.Contains(mesh.DroppableLabels, names[i]) {
			r.refuse(field.NotSupported(path.Index(i), names[i], mesh.DroppableLabels))
		}
	}
	distinct(r, path, in)
	r.out.DropLabels = sortedSet(names)
}

func (r *configReader) accessLog(path *field.Path, in v1alpha1.AccessLog) {
	mode := choose(r, path.Child("mode"), string(in.Mode), mesh.AccessLogAll, mesh.AccessLogErrors, mesh.AccessLogOff)
	format := choose(r, path.Child("format"), string(in.Format), mesh.AccessLogAsFlag, mesh.AccessLogText, mesh.AccessLogJSON)
	r.out.AccessLog = mesh.AccessLog{Mode: mode, Format: format}
}

func (r *configReader) tracing(path *field.Path, in v1alpha1.Tracing) {
	t := mesh.Tracing{}
	if in.OTLP != nil {
		t.OTLP = in.OTLP.Endpoint
		if !hostPort(t.OTLP) {
			r.refuse(field.Invalid(path.Child("otlp", "endpoint"), t.OTLP, "want host:port, such as otel-collector.observability:4317"))
		}
	}
	if in.Zipkin != nil {
		t.Zipkin = in.Zipkin.Endpoint
		if !httpURL(t.Zipkin) {
			r.refuse(field.Invalid(path.Child("zipkin", "endpoint"), t.Zipkin, "want a URL such as http://zipkin.observability:9411/api/v2/spans"))
		}
	}
	percent := float64(defaultSampling)
	if in.SamplePercent != nil {
		percent = *in.SamplePercent
	}
	if !(percent >= 0 && percent <= samplingComplete) { // NaN, too
		r.refuse(field.Invalid(path.Child("samplePercent"), percent, "want 0 to 100"))
	}
	if t.OTLP != "" || t.Zipkin != "" {
		t.SamplePercent = percent
	}
	r.out.Tracing = t
}

func (r *configReader) atMost(path *field.Path, n, limit int) {
	if n > limit {
		r.refuse(field.TooMany(path, n, limit))
	}
}

// choose finds the value whose word it is; the first without a word.
func choose[T interface{ String() string }](r *configReader, path *field.Path, word string, values ...T) T {
	var words []string
	for _, v := range values {
		if v.String() == word {
			return v
		}
		if v.String() != "" {
			words = append(words, v.String())
		}
	}
	if word != "" {
		r.refuse(field.NotSupported(path, word, words))
	}
	return values[0]
}

// distinct refuses a list that has something twice.
func distinct[T ~string](r *configReader, path *field.Path, in []T) {
	seen := map[T]bool{}
	for i, v := range in {
		if seen[v] {
			r.refuse(field.Duplicate(path.Index(i), string(v)))
		}
		seen[v] = true
	}
}

func sortedSet(in []string) []string {
	out := slices.Clone(in)
	slices.Sort(out)
	return slices.Compact(out)
}

func hostPort(s string) bool {
	m := hostPortWord.FindStringSubmatch(s)
	return m != nil && len(s) <= maxOTLPEndpoint && validPort(m[len(m)-1])
}

func httpURL(s string) bool {
	u, err := url.ParseRequestURI(s)
	return err == nil && len(s) <= maxZipkinURL && u.Scheme == "http" && u.Hostname() != "" && (u.Port() == "" || validPort(u.Port()))
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

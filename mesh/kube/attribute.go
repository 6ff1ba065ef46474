// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/warren-mesh/warren/mesh"
)

// seenKeys are the condition keys that hold at L4, unseenKeys those that need a waypoint: whole keys, and the
// beginnings of those where a name in brackets or more words follow.
var (
	seenKeys = []string{"source.ip", "source.namespace", "source.principal", "source.serviceAccount",
		"destination.ip", "destination.port"}
	unseenKeys = []string{"request.auth.principal", "request.auth.audiences", "request.auth.presenter", "remote.ip", "connection.sni"}
	unseenKey  = regexp.MustCompile(`^(request\.headers\[.+\]|request\.auth\.claims(\[.+\])+|experimental\..+)$`)
)

// condition is one entry of when: positives ANY, negatives NONE.
func (r *ruleReader) condition(path *field.Path, c *securityv1beta1.Condition) (m mesh.Match) {
	key := path.Child("key")
	if len(c.GetValues())+len(c.GetNotValues()) == 0 {
		r.errs = append(r.errs, field.Required(path.Child("values"), "a condition has values or notValues"))
	}
	is, not := path.Child("values"), path.Child("notValues")
	switch k := c.GetKey(); {
	case k == "":
		r.errs = append(r.errs, field.Required(key, "want one of "+strings.Join(seenKeys, ", ")))
	case k == "source.ip":
		m.SourceIPs, m.NotSourceIPs = r.blocks(is, c.Values), r.blocks(not, c.NotValues)
	case k == "source.namespace":
		m.Namespaces, m.NotNamespaces = r.words(is, c.Values), r.words(not, c.NotValues)
	case k == "source.principal":
		m.Principals, m.NotPrincipals = r.principals(is, c.Values), r.principals(not, c.NotValues)
	case k == "source.serviceAccount":
		m.ServiceAccounts, m.NotServiceAccounts = r.accounts(is, c.Values), r.accounts(not, c.NotValues)
	case k == "destination.ip":
		m.DestinationIPs, m.NotDestinationIPs = r.blocks(is, c.Values), r.blocks(not, c.NotValues)
	case k == "destination.port":
		m.DestinationPorts, m.NotDestinationPorts = r.ports(is, c.Values), r.ports(not, c.NotValues)
	case slices.Contains(unseenKeys, k), unseenKey.MatchString(k):
		r.unseen(key, k+" is known to a waypoint only")
	default:
		r.errs = append(r.errs, field.NotSupported(key, k, slices.Concat(seenKeys, unseenKeys, []string{"request.headers[...]", "request.auth.claims[...]"})))
	}
	return m
}

// each reads the values of one attribute; those that can't be read are noted.
func each[T any](r *ruleReader, path *field.Path, values []string, read func(string) (T, string)) (out []T) {
	for i, v := range values {
		x, wrong := read(v)
		if wrong != "" {
			r.errs = append(r.errs, field.Invalid(path.Index(i), v, wrong))
			continue
		}
		out = append(out, x)
	}
	return out
}

// words are compared whole, or with one * in front, behind or alone.
func (r *ruleReader) words(path *field.Path, values []string) []mesh.StringMatch {
	return each(r, path, values, wordFrom)
}

func wordFrom(v string) (mesh.StringMatch, string) {
	m := mesh.StringMatch{Kind: mesh.MatchExact, Value: v}
	switch {
	case v == "":
		return m, "an empty value never matches"
	case v == "*":
		return mesh.StringMatch{Kind: mesh.MatchPresence}, ""
	case strings.HasPrefix(v, "*"):
		m = mesh.StringMatch{Kind: mesh.MatchSuffix, Value: v[1:]}
	case strings.HasSuffix(v, "*"):
		m = mesh.StringMatch{Kind: mesh.MatchPrefix, Value: v[:len(v)-1]}
	}
	if strings.Contains(m.Value, "*") {
		return m, "a * stands at the beginning or at the end, once"
	}
	return m, ""
}

// principals are compared without the scheme of their SPIFFE URI.
func (r *ruleReader) principals(path *field.Path, values []string) []mesh.StringMatch {
	return each(r, path, values, func(v string) (mesh.StringMatch, string) { return wordFrom(strings.TrimPrefix(v, "spiffe://")) })
}

// accounts are "namespace/name", or a name in the policy's own namespace.
func (r *ruleReader) accounts(path *field.Path, values []string) []mesh.Name {
	return each(r, path, values, func(v string) (mesh.Name, string) {
		n := mesh.Name{Namespace: r.namespace, Name: v}
		if ns, name, ok := strings.Cut(v, "/"); ok {
			n = mesh.Name{Namespace: ns, Name: name}
		}
		if n.Namespace == "" || n.Name == "" || strings.ContainsAny(v, "*") || strings.Contains(n.Name, "/") {
			return n, "want <namespace>/<service account> or <service account>, without wildcards"
		}
		return n, ""
	})
}

// blocks are CIDRs or single addresses.
func (r *ruleReader) blocks(path *field.Path, values []string) []netip.Prefix {
	return each(r, path, values, func(v string) (netip.Prefix, string) {
		p, err := netip.ParsePrefix(v)
		if err != nil {
			a, err := netip.ParseAddr(v)
			if err != nil || a.Zone() != "" {
				return p, "want an IP address or a CIDR"
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		return p.Masked(), ""
	})
}

func (r *ruleReader) ports(path *field.Path, values []string) []uint16 {
	return each(r, path, values, func(v string) (uint16, string) {
		p, err := strconv.ParseUint(v, 10, 16)
		if err != nil || p == 0 {
			return 0, "want a port from 1 to 65535"
		}
		return uint16(p), ""
	})
}

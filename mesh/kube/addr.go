// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// parseAddr reads an address that something in the cluster may have: unicast, not loopback, without zone.
// v4-mapped addresses come out as IPv4.
func parseAddr(path *field.Path, s string) (netip.Addr, *field.Error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, field.Invalid(path, s, "not an IP address")
	}
	a = a.Unmap()
	switch {
	case a.Zone() != "":
		return a, field.Invalid(path, s, "an address with a zone")
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast():
		return a, field.Invalid(path, s, "not an address a connection can go to")
	}
	return a, nil
}

func parsePrefix(path *field.Path, s string) (netip.Prefix, *field.Error) {
	p, err := netip.ParsePrefix(strings.TrimSpace(s))
	if err != nil {
		return p, field.Invalid(path, s, "not a CIDR")
	}
	return p.Masked(), nil
}

func parsePrefixes(path *field.Path, in []string) (out []netip.Prefix, errs field.ErrorList) {
	for i, s := range in {
		p, err := parsePrefix(path.Index(i), s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, p)
	}
	return out, errs
}

func sortedPrefixes(ps []netip.Prefix) []netip.Prefix {
	slices.SortFunc(ps, netip.Prefix.Compare)
	return slices.Compact(ps)
}

// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/warren-mesh/warren/mesh"
)

// hostname returns the fully qualified host name of a service's name. A name with a dot in it (no
// Kubernetes service has one) already is a host name.
func hostname(n mesh.Name, domain string) string {
	if strings.Contains(n.Name, ".") {
		return n.Name
	}
	return n.Name + "." + n.Namespace + ".svc." + domain
}

// serviceName is hostname's inverse, whatever the cluster's domain. It goes by the host name alone, so that
// a workload and the service it names agree even where other things share the service's short name.
func serviceName(namespace, host string) mesh.Name {
	label, rest, _ := strings.Cut(host, ".")
	if strings.HasPrefix(rest, namespace+".svc.") {
		return mesh.Name{Namespace: namespace, Name: label}
	}
	return mesh.Name{Namespace: namespace, Name: host}
}

// parseServiceKey reads "namespace/hostname".
func parseServiceKey(key string) (mesh.Name, error) {
	ns, host, ok := strings.Cut(key, "/")
	if !ok || ns == "" || host == "" || strings.Contains(host, "/") {
		return mesh.Name{}, fmt.Errorf("parse service %q: want namespace/hostname", key)
	}
	return serviceName(ns, host), nil
}

// parseAddr reads 4 or 16 bytes in network order; v4-mapped addresses are unmapped.
func parseAddr(b []byte) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.Addr{}, fmt.Errorf("parse address: want 4 or 16 bytes, got %d", len(b))
	}
	return a.Unmap(), nil
}

// parsePrefix reads an address with its length; a v4-mapped prefix becomes one of IPv4.
func parsePrefix(b []byte, length uint32) (netip.Prefix, error) {
	a, ok := netip.AddrFromSlice(b)
	if !ok || length > 128 {
		return netip.Prefix{}, fmt.Errorf("parse prefix: %d bytes of address, length %d", len(b), length)
	}
	if a.Is4In6() && length >= 96 {
		a, length = a.Unmap(), length-96
	}
	p, err := a.Prefix(int(length))
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("parse prefix %s: %w", a, err)
	}
	return p, nil
}

// parsePort narrows a port; zero is the caller's to judge.
func parsePort(p uint32) (uint16, error) {
	if p > 65535 {
		return 0, fmt.Errorf("parse port %d: want at most 65535", p)
	}
	return uint16(p), nil
}

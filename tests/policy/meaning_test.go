// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net"
	"slices"
	"strconv"
	"strings"

	security "istio.io/api/security/v1beta1"
	istio "istio.io/client-go/pkg/apis/security/v1"
)

const root = "warren-system"

// caller is a connection as a ztunnel sees it.
type caller struct {
	domain, namespace, account string // all empty: it proved no identity
	from, to                   net.IP
	port                       int
}

func (c caller) principal() string {
	if c.domain == "" {
		return ""
	}
	return c.domain + "/ns/" + c.namespace + "/sa/" + c.account
}

// target is a pod somebody connects to.
type target struct {
	namespace string
	labels    map[string]string
}

// world is all policy there is.
type world struct {
	authz map[string]*istio.AuthorizationPolicy // by namespace/name
	peers map[string]*istio.PeerAuthentication
}

// verdict is what is to become of a connection.
type verdict struct {
	allowed, strict bool
	dry, audit      []string // policies that match and do not count, in order
}

// judge: any enforced DENY that matches refuses; without an ALLOW all is allowed; else one has to match.
func (w world) judge(t target, c caller) (v verdict) {
	var denied, restricted, admitted bool
	for _, name := range sortedKeys(w.authz) {
		p := w.authz[name]
		if !appliesTo(p, t) {
			continue
		}
		match := slices.ContainsFunc(p.Spec.Rules, func(r *security.Rule) bool { return holds(p, r, c) })
		if p.Annotations["istio.io/dry-run"] == "true" {
			if match {
				v.dry = append(v.dry, name)
			}
			continue
		}
		switch p.Spec.Action {
		case security.AuthorizationPolicy_AUDIT:
			if match {
				v.audit = append(v.audit, name)
			}
		case security.AuthorizationPolicy_DENY:
			denied = denied || match
		case security.AuthorizationPolicy_ALLOW:
			restricted, admitted = true, admitted || match
		}
	}
	v.strict = c.principal() == "" && w.mode(t, c.port) == security.PeerAuthentication_MutualTLS_STRICT
	v.allowed = !v.strict && !denied && (!restricted || admitted)
	return v
}

// appliesTo: to its namespace or, in the root namespace, to all; with a selector to the pods that have its labels.
// What names a waypoint, or asks somebody else, is no ztunnel's business.
func appliesTo(p *istio.AuthorizationPolicy, t target) bool {
	if len(p.Spec.TargetRefs) > 0 || p.Spec.Action == security.AuthorizationPolicy_CUSTOM {
		return false
	}
	return (p.Namespace == root || p.Namespace == t.namespace) && has(t.labels, p.Spec.GetSelector().GetMatchLabels())
}

func has(labels, wanted map[string]string) bool {
	for k, v := range wanted {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// holds: one of from, one of to, and every when. HTTP is invisible: an ALLOW rule that wants some is never fulfilled, in
// others it is as if fulfilled.
func holds(p *istio.AuthorizationPolicy, r *security.Rule, c caller) bool {
	http := p.Spec.Action != security.AuthorizationPolicy_ALLOW
	if !http && wantsHTTP(r) {
		return false
	}
	from := len(r.From) == 0 || slices.ContainsFunc(r.From, func(f *security.Rule_From) bool {
		s := f.Source
		return text(s.Principals, s.NotPrincipals, c.principal()) && text(s.Namespaces, s.NotNamespaces, c.namespace) &&
			account(p.Namespace, s.ServiceAccounts, s.NotServiceAccounts, c) && block(s.IpBlocks, s.NotIpBlocks, c.from)
	})
	to := len(r.To) == 0 || slices.ContainsFunc(r.To, func(o *security.Rule_To) bool {
		return number(o.Operation.Ports, o.Operation.NotPorts, c.port)
	})
	return from && to && !slices.ContainsFunc(r.When, func(w *security.Condition) bool {
		switch w.Key {
		case "source.principal":
			return !text(w.Values, w.NotValues, c.principal())
		case "source.namespace":
			return !text(w.Values, w.NotValues, c.namespace)
		case "source.serviceAccount":
			return !account(p.Namespace, w.Values, w.NotValues, c)
		case "source.ip":
			return !block(w.Values, w.NotValues, c.from)
		case "destination.ip":
			return !block(w.Values, w.NotValues, c.to)
		case "destination.port":
			return !number(w.Values, w.NotValues, c.port)
		}
		return false
	})
}

func wantsHTTP(r *security.Rule) bool {
	some := func(lists ...[]string) bool {
		return slices.ContainsFunc(lists, func(l []string) bool { return len(l) > 0 })
	}
	return slices.ContainsFunc(r.From, func(f *security.Rule_From) bool {
		s := f.Source
		return some(s.RequestPrincipals, s.NotRequestPrincipals, s.RemoteIpBlocks, s.NotRemoteIpBlocks)
	}) || slices.ContainsFunc(r.To, func(t *security.Rule_To) bool {
		o := t.Operation
		return some(o.Hosts, o.NotHosts, o.Methods, o.NotMethods, o.Paths, o.NotPaths)
	}) || slices.ContainsFunc(r.When, func(c *security.Condition) bool {
		return !strings.HasPrefix(c.Key, "source.") && !strings.HasPrefix(c.Key, "destination.")
	})
}

// any of the positives, none of the negatives.
func either(is, not []string, fits func(string) bool) bool {
	return (len(is) == 0 || slices.ContainsFunc(is, fits)) && !slices.ContainsFunc(not, fits)
}

func text(is, not []string, s string) bool {
	return either(is, not, func(p string) bool {
		p = strings.TrimPrefix(p, "spiffe://")
		switch {
		case s == "":
			return false
		case p == "*":
			return true
		case strings.HasPrefix(p, "*"):
			return strings.HasSuffix(s, p[1:])
		case strings.HasSuffix(p, "*"):
			return strings.HasPrefix(s, p[:len(p)-1])
		}
		return p == s
	})
}

// account: "namespace/name", or "name" in the policy's namespace, whatever the trust domain.
func account(own string, is, not []string, c caller) bool {
	return either(is, not, func(p string) bool {
		if !strings.Contains(p, "/") {
			p = own + "/" + p
		}
		return c.domain != "" && p == c.namespace+"/"+c.account
	})
}

func block(is, not []string, ip net.IP) bool {
	return either(is, not, func(p string) bool {
		if a := net.ParseIP(p); a != nil {
			return a.Equal(ip)
		}
		addr, n, err := net.ParseCIDR(p)
		if err != nil {
			panic(err)
		}
		if bits, _ := n.Mask.Size(); addr.To4() != nil && strings.Contains(p, ":") { // v4-mapped
			n = &net.IPNet{IP: addr.To4(), Mask: net.CIDRMask(bits-96, 32)}
			n.IP = n.IP.Mask(n.Mask)
		}
		return (n.IP.To4() == nil) == (ip.To4() == nil) && n.Contains(ip)
	})
}

func number(is, not []string, port int) bool {
	return either(is, not, func(p string) bool { return p == strconv.Itoa(port) })
}

// mode of mutual TLS at a port: of the oldest PeerAuthentication that selects the pod, for the port or at all, else of
// the namespace's oldest, else of the mesh's. UNSET asks the next wider.
func (w world) mode(t target, port int) security.PeerAuthentication_MutualTLS_Mode {
	const unset = security.PeerAuthentication_MutualTLS_UNSET
	oldest := func(fits func(*istio.PeerAuthentication) bool) (first *istio.PeerAuthentication) {
		for _, name := range sortedKeys(w.peers) {
			p := w.peers[name]
			if fits(p) && (first == nil || p.CreationTimestamp.Time.Before(first.CreationTimestamp.Time)) {
				first = p
			}
		}
		return first
	}
	labels := func(p *istio.PeerAuthentication) map[string]string { return p.Spec.GetSelector().GetMatchLabels() }
	selected := oldest(func(p *istio.PeerAuthentication) bool {
		return p.Namespace == t.namespace && p.Namespace != root && len(labels(p)) > 0 && has(t.labels, labels(p))
	})
	if selected != nil {
		if m := selected.Spec.PortLevelMtls[uint32(port)].GetMode(); m != unset {
			return m
		}
		if m := selected.Spec.Mtls.GetMode(); m != unset {
			return m
		}
	}
	for _, ns := range []string{t.namespace, root} {
		wide := oldest(func(p *istio.PeerAuthentication) bool { return p.Namespace == ns && len(labels(p)) == 0 })
		if wide == nil {
			continue
		}
		if m := wide.Spec.Mtls.GetMode(); m != unset {
			return m
		}
	}
	return unset
}

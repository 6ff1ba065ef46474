// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// writeServiceTables puts the ClusterIPs into every node's nftables, as kube-proxy would. Only pods outside the mesh
// need it: Warren resolves services itself.
func (m *Mesh) writeServiceTables() error {
	rules := m.serviceTable()
	for _, n := range m.nodes {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(rules)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := n.here().start(cmd); err != nil {
			return fmt.Errorf("nft (apt-get install nftables): %w", err)
		}
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("nft on node %s: %w: %s\n%s", n.Name, err, out.String(), rules)
		}
	}
	return nil
}

// serviceTable is one transaction that replaces the whole table.
func (m *Mesh) serviceTable() string {
	var nat, none strings.Builder
	for _, s := range m.services() {
		for _, port := range s.Spec.Ports {
			for _, ip := range s.Spec.ClusterIPs {
				a, err := netip.ParseAddr(ip)
				if err != nil { // headless
					continue
				}
				match := fmt.Sprintf("%s daddr %s %s dport %d", family(a), a, protocol(port), port.Port)
				if targets := m.targets(s, port, a.Is6()); len(targets) > 0 {
					fmt.Fprintf(&nat, "\t\t%s dnat %s to %s\n", match, family(a), spread(targets))
				} else {
					fmt.Fprintf(&none, "\t\t%s reject\n", match)
				}
			}
		}
	}
	return fmt.Sprintf(`table inet services
delete table inet services
table inet services {
	chain clusterips {
%s	}
	chain prerouting { type nat hook prerouting priority dstnat; jump clusterips; }
	chain output { type nat hook output priority -100; jump clusterips; }
	chain endless {
%s	}
	chain rejecting { type filter hook prerouting priority filter; jump endless; }
	chain postrouting {
		type nat hook postrouting priority srcnat
%s	}
}
`, nat.String(), none.String(), m.hairpins())
}

func family(a netip.Addr) string {
	if a.Is6() {
		return "ip6"
	}
	return "ip"
}

func protocol(p corev1.ServicePort) string {
	if p.Protocol == corev1.ProtocolUDP {
		return "udp"
	}
	return "tcp"
}

func (m *Mesh) targets(s *corev1.Service, port corev1.ServicePort, v6 bool) []netip.AddrPort {
	var out []netip.AddrPort
	for _, p := range m.endpoints(s) {
		n := targetPort(p, port)
		for _, a := range podAddrs(p, v6) {
			if n != 0 {
				out = append(out, netip.AddrPortFrom(a, uint16(n)))
			}
		}
	}
	return out
}

// spread writes "one of these, at random" in nft's words.
func spread(targets []netip.AddrPort) string {
	if len(targets) == 1 {
		return targets[0].String()
	}
	var items []string
	for i, t := range targets {
		items = append(items, fmt.Sprintf("%d : %s . %d", i, t.Addr(), t.Port()))
	}
	return fmt.Sprintf("numgen random mod %d map { %s }", len(targets), strings.Join(items, ", "))
}

// hairpins masquerades what a pod sends to itself by way of a service: otherwise it would drop packets from its own address.
func (m *Mesh) hairpins() string {
	var b strings.Builder
	for _, p := range m.pods {
		for _, a := range []netip.Addr{p.IPv4, p.IPv6} {
			fmt.Fprintf(&b, "\t\t%s saddr %s %s daddr %s ct status dnat masquerade\n", family(a), a, family(a), a)
		}
	}
	return b.String()
}

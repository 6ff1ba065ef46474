// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// newHostsFile makes the file that a pod sees as /etc/hosts. It is bound there, so it is rewritten in place ever after.
func (m *Mesh) newHostsFile(uid string) (string, error) {
	path := filepath.Join(m.dir, "hosts", uid)
	return path, os.WriteFile(path, []byte(localNames), 0o644)
}

const localNames = "127.0.0.1 localhost\n::1 localhost\n"

// writeHosts gives every pod the names of all services: a ClusterIP, or the pods' addresses where there is none.
func (m *Mesh) writeHosts() error {
	for _, p := range m.pods {
		var b strings.Builder
		b.WriteString(localNames)
		fmt.Fprintf(&b, "%s %s\n%s %s\n", p.IPv4, p.Name, p.IPv6, p.Name)
		for _, s := range m.services() {
			names := serviceNames(s, p.Namespace)
			for _, a := range m.serviceAddrs(s) {
				fmt.Fprintf(&b, "%s %s\n", a, names)
			}
		}
		if err := overwrite(p.hosts, b.String()); err != nil {
			return err
		}
	}
	return nil
}

// overwrite changes a file in place with one write, so that a reader sees the old text or the new, not half of it.
func overwrite(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(text)))
}

// serviceNames are those that a resolver with Kubernetes' search list would accept.
func serviceNames(s *corev1.Service, from string) string {
	full := s.Name + "." + s.Namespace
	names := []string{full, full + ".svc", full + ".svc.cluster.local"}
	if s.Namespace == from {
		names = append(names, s.Name)
	}
	return strings.Join(names, " ")
}

func (m *Mesh) serviceAddrs(s *corev1.Service) []netip.Addr {
	var out []netip.Addr
	if s.Spec.ClusterIP == corev1.ClusterIPNone {
		for _, p := range m.endpoints(s) {
			out = append(append(out, podAddrs(p, false)...), podAddrs(p, true)...)
		}
		return out
	}
	for _, ip := range s.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(ip); err == nil {
			out = append(out, a)
		}
	}
	return out
}

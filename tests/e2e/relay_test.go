// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/intruder"
)

// dialHBONE connects to a pod's HBONE port from another pod.
func dialHBONE(t *testing.T, from *Pod, to netip.Addr) net.Conn {
	t.Helper()
	p, err := from.process()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := dialIn(ctx, fmt.Sprintf("/proc/%d/ns/net", p.PID), "tcp", netip.AddrPortFrom(to, hbonePort).String())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestNoOpenRelay holds a certificate that is good, and asks a pod's HBONE port for everything but that pod: each is
// refused with its status and its word.
func TestNoOpenRelay(t *testing.T) {
	m := Shared(t)
	nodes := m.Nodes()
	ns, out := m.Namespace(t, "relay", Enrolled()), m.Namespace(t, "strangers")
	caller := App{Name: "stranger", Node: nodes[0]}
	out.Create(caller)
	ns.Service(Service{Name: "near"})
	ns.Service(Service{Name: "far"})
	pods := ns.Deploy(App{Name: "near", Node: nodes[0]}, App{Name: "far", Node: nodes[1]})
	near, far := pods[0], pods[1]
	stranger := out.Wait(caller)[0]
	id := ns.Identity("near")
	mine := meshSigner(t, m)
	for _, bad := range []struct {
		name, reason string
		cert         *tls.Certificate
	}{
		{"no certificate", "TLS_FAILURE", nil},
		{"another CA", "TLS_FAILURE", mine.Foreign(t).Certificate(t, id, nil)},
		{"another trust domain", "IDENTITY_MISMATCH", mine.Certificate(t, "spiffe://elsewhere.example/ns/relay/sa/near", nil)},
	} {
		t.Run(bad.name, func(t *testing.T) {
			e := m.Witness(t, far.Node)
			c, err := intruder.Shake(t, dialHBONE(t, stranger, far.IPv4), bad.cert)
			if err == nil { // TLS 1.3: the client is done before the server has looked at its certificate
				_, err = c.Read(make([]byte, 1))
			}
			var alert *net.OpError
			if !errors.As(err, &alert) || alert.Op != "remote error" {
				t.Errorf("the client's first read: %v, want a TLS alert", err)
			}
			e.Ended("destination", bad.reason, fmt.Sprintf("src.addr=%s", c.LocalAddr()), "bytes_sent=0", "bytes_recv=0")
		})
	}
	tunnel := intruder.Tunnel(t, dialHBONE(t, stranger, far.IPv4), mine.Certificate(t, id, nil))
	own := func(port int) string { return fmt.Sprintf("%s:%d", far.IPv4, port) }
	domain := "." + ns.Name + ".svc.cluster.local"
	node, err := m.NodeShell(t.Context(), far.Node, "sh", "-c", "ip -4 -o addr show eth0 | sed 's/.*inet //; s,/.*,,'")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, authority string
		status          int
		reason          string
	}{
		{"another pod", near.Addr("tcp4", EchoPort).String(), 400, "AUTHORITY_MISMATCH"},
		{"the pod's own other address", far.Addr("tcp6", EchoPort).String(), 400, "AUTHORITY_MISMATCH"},
		{"127.0.0.1", "127.0.0.1:7000", 400, "AUTHORITY_MISMATCH"},
		{"the v4-mapped form of the pod's own address", fmt.Sprintf("[::ffff:%s]:7000", far.IPv4), 400, "AUTHORITY_MISMATCH"},
		{"the node's IP", netip.AddrPortFrom(netip.MustParseAddr(node[:len(node)-1]), 10250).String(), 400, "AUTHORITY_MISMATCH"},
		{"the API server's Service", "10.230.0.1:443", 400, "AUTHORITY_MISMATCH"},
		{"link-local, where metadata services live", "169.254.169.254:80", 400, "AUTHORITY_MISMATCH"},
		{"a host name that is no service", "nowhere" + domain + ":80", 503, "DESTINATION_UNKNOWN"},
		{"a service that the pod is no endpoint of", "near" + domain + ":80", 400, "AUTHORITY_MISMATCH"},
		{"a port that its service does not have", "far" + domain + ":81", 503, "NO_SUCH_PORT"},
		{"port 15001", own(15001), 400, "RESERVED_PORT"},
		{"port 15006", own(15006), 400, "RESERVED_PORT"},
		{"port 15008", own(15008), 400, "RESERVED_PORT"},
		{"the first capture port", own(61000), 400, "RESERVED_PORT"},
		{"no port", far.IPv4.String(), 400, "BAD_REQUEST"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := m.Witness(t, far.Node)
			if got := intruder.Connect(t, tunnel, tt.authority); got != tt.status {
				t.Errorf("status %d, want %d", got, tt.status)
			}
			e.Ended("destination", tt.reason, "src.identity="+id, "bytes_sent=0", "bytes_recv=0")
		})
	}
	for _, good := range []string{own(EchoPort), "far" + domain + ":80"} {
		t.Run("but the pod itself as "+good, func(t *testing.T) {
			if got := intruder.Connect(t, tunnel, good); got != 200 {
				t.Errorf("status %d, want 200", got)
			}
		})
	}
}

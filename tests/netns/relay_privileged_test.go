// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"testing"

	"github.com/warren-mesh/warren/tests/intruder"
	"github.com/warren-mesh/warren/tests/testutil"
)

// TestNoOpenRelay holds a certificate that is good, and asks a pod's HBONE port for everything but that pod: each is
// refused with its status and its word, and ztunnel connects nowhere.
func TestNoOpenRelay(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	stranger := s.Node("a").Pod("stranger")
	cert, err := obtain(t, stranger, s.Node("a").Token(), account("app", "client"))
	if err != nil {
		t.Fatal(err)
	}
	tunnel := tunnelTo(t, stranger, s.far.IPv4, cert)
	own := func(port int) string { return fmt.Sprintf("%s:%d", s.far.IPv4, port) }
	tests := []struct {
		name, authority string
		status          int
		reason          string
	}{
		{"another pod", s.near.Addr("tcp4", 8080).String(), 400, "AUTHORITY_MISMATCH"},
		{"another pod of IPv6", s.near.Addr("tcp6", 8080).String(), 400, "AUTHORITY_MISMATCH"},
		{"the pod's own other address", s.far.Addr("tcp6", 8080).String(), 400, "AUTHORITY_MISMATCH"},
		{"127.0.0.1", "127.0.0.1:8080", 400, "AUTHORITY_MISMATCH"},
		{"::1", "[::1]:8080", 400, "AUTHORITY_MISMATCH"},
		{"any address", "0.0.0.0:8080", 400, "AUTHORITY_MISMATCH"},
		{"the v4-mapped form of the pod's own address", fmt.Sprintf("[::ffff:%s]:8080", s.far.IPv4), 400, "AUTHORITY_MISMATCH"},
		{"v4-mapped loopback", "[::ffff:127.0.0.1]:8080", 400, "AUTHORITY_MISMATCH"},
		{"the node's IP", fmt.Sprintf("%s:8080", s.far.Node.IPv4), 400, "AUTHORITY_MISMATCH"},
		{"the node's IPv6", fmt.Sprintf("[%s]:8080", s.far.Node.IPv6), 400, "AUTHORITY_MISMATCH"},
		{"link-local, where metadata services live", "169.254.169.254:80", 400, "AUTHORITY_MISMATCH"},
		{"link-local of IPv6", "[fe80::1]:80", 400, "AUTHORITY_MISMATCH"},
		{"link-local with a zone", "[fe80::1%eth0]:80", 400, ""},
		{"an address outside the cluster", "192.0.2.1:80", 400, "AUTHORITY_MISMATCH"},
		{"a host name that is no service", "nowhere.app.svc.cluster.local:80", 503, "DESTINATION_UNKNOWN"},
		{"localhost", "localhost:8080", 503, "DESTINATION_UNKNOWN"},
		{"a service that the pod is no endpoint of", "near.app.svc.cluster.local:80", 400, "AUTHORITY_MISMATCH"},
		{"a port that its service does not have", "far.app.svc.cluster.local:81", 503, "NO_SUCH_PORT"},
		{"port 15001", own(15001), 400, "RESERVED_PORT"},
		{"port 15006", own(15006), 400, "RESERVED_PORT"},
		{"port 15008", own(15008), 400, "RESERVED_PORT"},
		{"port 15053", own(15053), 400, "RESERVED_PORT"},
		{"the first capture port", own(61000), 400, "RESERVED_PORT"},
		{"the last capture port", own(61063), 400, "RESERVED_PORT"},
		{"no port", s.far.IPv4.String(), 400, "BAD_REQUEST"},
		{"port 0", own(0), 400, "BAD_REQUEST"},
		{"a path", own(8080) + "/x", 400, "BAD_REQUEST"},
	}
	all := witness(t, s.far.Node)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			far := witness(t, s.far.Node)
			if got := intruder.Connect(t, tunnel, tt.authority); got != tt.status {
				t.Errorf("status %d, want %d", got, tt.status)
			}
			if tt.reason == "" {
				far.line("src.workload=stranger", "direction=inbound")
				return
			}
			far.ended("destination", tt.reason, "src.identity="+account("app", "client").String(), "bytes_sent=0", "bytes_recv=0")
		})
	}
	if dialled := all.grown("EXEMPT_SOCKET") + all.grown("EXEMPT_REFUSED"); dialled != 0 {
		t.Errorf("ztunnel dialled %d times", dialled)
	}
	for _, good := range []string{own(8080), "far.app.svc.cluster.local:80"} {
		t.Run("but the pod itself as "+good, func(t *testing.T) {
			far := witness(t, s.far.Node)
			if got := intruder.Connect(t, tunnel, good); got != 200 {
				t.Errorf("status %d, want 200", got)
			}
			if dialled := far.grown("EXEMPT_SOCKET"); dialled != 1 {
				t.Errorf("ztunnel dialled %d times, want once", dialled)
			}
		})
	}
}

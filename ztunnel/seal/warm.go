// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"mime"
	"net"
	"time"
)

// warm loads what Go reads from files, or asks of the kernel by making sockets, when it is first needed. What
// fails here would have failed later too, and is then not needed.
func warm() {
	_, _ = time.Now().Local().Zone()
	_, _ = x509.SystemCertPool()
	_ = mime.TypeByExtension(".html")
	_, _ = rand.Read(make([]byte, 1))
	// The resolver reads its files again at times: names must not be resolved after the seal. Service names are
	// read once.
	_, _ = net.DefaultResolver.LookupPort(context.Background(), "tcp", "https")
	// Listening probes for IPv6, for multipath TCP and for the backlog's bound.
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close()
	}
}

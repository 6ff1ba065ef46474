// SPDX-License-Identifier: Apache-2.0

// Package localhost keeps pages for operators to those who sit at this machine, or at the end of a port forward
// of their own.
package localhost

import (
	"net"
	"net/http"
)

// Only lets only requests pass that name localhost and, where they may change something, do not come from another
// site's page: what runs in somebody's browser reaches through a port forward neither under a name of its own nor by
// a form sent to localhost.
func Only(h http.Handler) http.Handler {
	h = http.NewCrossOriginProtection().Handler(h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "only for localhost", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

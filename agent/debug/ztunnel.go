// SPDX-License-Identifier: Apache-2.0

package debug

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Of ztunnel's answers so much is passed on: whoever took ztunnel over must not keep the agent busy.
const (
	ztunnelTime  = 30 * time.Second
	ztunnelBytes = 256 << 20
)

// fromZtunnel passes a GET on to a page of this node's ztunnel.
func (s Sources) fromZtunnel(path string) http.HandlerFunc {
	client := &http.Client{
		Timeout: ztunnelTime,
		Transport: &http.Transport{
			DisableKeepAlives:      true, // the newest ztunnel is asked each time
			MaxResponseHeaderBytes: 64 << 10,
			DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return s.Ztunnel(ctx) },
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", "GET")
			http.Error(w, "want GET", http.StatusMethodNotAllowed)
			return
		}
		out, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://localhost"+path+"?"+r.URL.RawQuery, nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out.Header.Set("Accept", r.Header.Get("Accept"))
		answer, err := client.Do(out)
		if err != nil {
			http.Error(w, fmt.Sprintf("ask this node's ztunnel: %v", err), http.StatusServiceUnavailable)
			return
		}
		defer answer.Body.Close()
		w.Header().Set("Content-Type", answer.Header.Get("Content-Type"))
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(answer.StatusCode)
		_, _ = io.Copy(w, io.LimitReader(answer.Body, ztunnelBytes)) // one of the two went away
	}
}

// SPDX-License-Identifier: Apache-2.0

package localhost

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestOnly(t *testing.T) {
	h := Only(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for _, tt := range []struct {
		method, host, header, value string
		code                        int
	}{
		{"GET", "localhost:15000", "", "", 200},
		{"GET", "127.0.0.1:15000", "", "", 200},
		{"GET", "[::1]:15000", "", "", 200},
		{"GET", "localhost", "", "", 200},
		{"GET", "evil.example:15000", "", "", 403},
		{"GET", "10.0.0.1:15000", "", "", 403},
		{"GET", "", "", "", 403},
		{"POST", "localhost:15000", "", "", 200}, // curl
		{"POST", "localhost:15000", "Origin", "http://localhost:15000", 200},
		{"POST", "localhost:15000", "Origin", "https://evil.example", 403},
		{"POST", "localhost:15000", "Origin", "null", 403},
		{"POST", "localhost:15000", "Sec-Fetch-Site", "cross-site", 403},
		{"POST", "evil.example:15000", "Origin", "http://evil.example:15000", 403},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(tt.method, "http://x/", nil)
		r.Host = tt.host
		if tt.header != "" {
			r.Header.Set(tt.header, tt.value)
		}
		if h.ServeHTTP(w, r); w.Code != tt.code {
			t.Errorf("%s to %q with %s %q: status %d, want %d", tt.method, tt.host, tt.header, tt.value, w.Code, tt.code)
		}
	}
}

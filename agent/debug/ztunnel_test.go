// SPDX-License-Identifier: Apache-2.0

package debug

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestFromZtunnel: the query reaches ztunnel, its answer comes back, and nothing else of it does.
func TestFromZtunnel(t *testing.T) {
	z := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("src") {
		case "away":
			http.Redirect(w, r, "http://elsewhere.example/", http.StatusFound)
		case "nobody":
			http.Error(w, "not found", http.StatusNotFound)
		default:
			w.Header().Set("Set-Cookie", "a=b")
			_, _ = io.WriteString(w, r.Host+r.URL.String()+" "+r.Header.Get("Accept")+r.Header.Get("Cookie"))
		}
	}))
	defer z.Close()
	dial := func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", z.Listener.Addr().String())
	}
	ask := func(s Sources, method, query string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "/debug/explain?"+query, nil)
		r.Header.Set("Accept", "text/plain")
		r.Header.Set("Cookie", "secret=1")
		w := httptest.NewRecorder()
		Handler(s).ServeHTTP(w, r)
		return w
	}
	s := Sources{Ztunnel: dial}
	w := ask(s, http.MethodGet, "src=a%2Fb&dst=c")
	if got := w.Body.String(); got != "localhost/debug/explain?src=a%2Fb&dst=c text/plain" || w.Header().Get("Set-Cookie") != "" {
		t.Errorf("%q, %v", got, w.Header())
	}
	for query, want := range map[string]int{"src=nobody": 404, "src=away": 302} {
		if w := ask(s, http.MethodGet, query); w.Code != want || w.Header().Get("Location") != "" {
			t.Errorf("%s: %d, %v", query, w.Code, w.Header())
		}
	}
	if w := ask(s, http.MethodPost, ""); w.Code != 405 {
		t.Errorf("POST: %d", w.Code)
	}
	none := Sources{Ztunnel: func(context.Context) (net.Conn, error) { return nil, errors.New("no ztunnel listens") }}
	if w := ask(none, http.MethodGet, ""); w.Code != 503 || !strings.Contains(w.Body.String(), "no ztunnel listens") {
		t.Errorf("without ztunnel: %d %s", w.Code, w.Body)
	}
}

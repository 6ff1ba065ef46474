// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
)

// ServeHTTP answers GET ?src=..&dst=..&port=.. with optional family=4|6, in JSON, or as text for format=text or
// a request that accepts text/plain.
func (e Explainer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET")
		http.Error(w, "want GET", http.StatusMethodNotAllowed)
		return
	}
	q, err := parse(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a, err := e.Explain(q)
	switch {
	case errors.Is(err, ErrNotFound):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
	case wantsText(r):
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_ = a.WriteText(w) // the client went away
	default:
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(a) // likewise
	}
}

func parse(r *http.Request) (q Query, err error) {
	f := r.URL.Query()
	q = Query{Source: f.Get("src"), Destination: f.Get("dst")}
	if q.Source == "" || q.Destination == "" {
		return q, errors.New("want ?src=..&dst=..&port=.. (src: a pod's namespace/name or uid, or an address; dst: an address, " +
			"namespace/name of a service or pod, or a host name; optional: family=4|6, format=text)")
	}
	port, err := strconv.ParseUint(f.Get("port"), 10, 16)
	if err != nil || port == 0 {
		return q, errors.New("port: want 1 to 65535")
	}
	q.Port = uint16(port)
	if s := f.Get("family"); s != "" {
		if q.Family, err = strconv.Atoi(strings.TrimPrefix(strings.ToLower(s), "ipv")); err != nil {
			return q, errors.New("family: want 4 or 6")
		}
	}
	if format := f.Get("format"); format != "" && format != "text" && format != "json" {
		return q, errors.New("format: want text or json")
	}
	return q, nil
}

func wantsText(r *http.Request) bool {
	switch r.URL.Query().Get("format") {
	case "text":
		return true
	case "json":
		return false
	}
	return strings.HasPrefix(r.Header.Get("Accept"), "text/plain")
}

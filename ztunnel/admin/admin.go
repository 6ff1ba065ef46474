// SPDX-License-Identifier: Apache-2.0

// Package admin is ztunnel's page for operators, on localhost of its own pod: what it knows, which
// connections live, profiles, and the log level, the one thing that can be changed here.
package admin

import (
	"encoding/json"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel/explain"
	"github.com/warren-mesh/warren/ztunnel/identity"
	"github.com/warren-mesh/warren/ztunnel/proxy"
)

// Sources are where the pages get what they show. All functions are safe for concurrent use.
type Sources struct {
	Node         string
	Version      string
	Settings     map[string]string // the effective configuration
	Snapshot     func() *mesh.Snapshot
	Certificates func() []identity.Info
	Pods         func() []proxy.PodInfo
	Top          func(window time.Duration, limit int) (covered time.Duration, pods []proxy.PodTraffic)
	Level        *slog.LevelVar
	// DefaultLevel is what "reset" returns to.
	DefaultLevel slog.Level
	// Sealed: profiles come as text only, for the binary form reads /proc.
	Sealed bool
}

type page struct {
	Path, Text string
	handler    http.HandlerFunc
}

// Handler serves the pages.
func Handler(s Sources) http.Handler {
	pages := []page{
		{"/config_dump", "what this ztunnel knows, in ambient's JSON", s.configDump},
		{"/debug/connections", "live connections, by pod", s.connections},
		{"/debug/top", "who had most traffic lately, pods and their peers: ?window=1m&limit=10&format=text", s.top},
		{"/debug/explain", "what becomes of a connection, and why: ?src=shop/web&dst=shop/cart&port=80", s.explainer().ServeHTTP},
		{"/logging", "POST ?level=debug|info|warn|error|reset; GET shows the level", s.logging},
		{"/debug/pprof/", "Go profiles", s.profiles},
	}
	mux := http.NewServeMux()
	for _, p := range pages {
		mux.HandleFunc(p.Path, p.handler)
	}
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_ = index.Execute(w, struct {
			Sources
			Pages []page
		}{s, pages})
	})
	return mux
}

var index = template.Must(template.New("index").Parse(`<!doctype html><meta charset="utf-8"><title>warren-ztunnel {{.Node}}</title>
<h1>warren-ztunnel on {{.Node}}</h1><p>version {{.Version}}</p>
<table>{{range .Pages}}<tr><td><a href="{{.Path}}">{{.Path}}</a></td><td>{{.Text}}</td></tr>{{end}}</table>
`))

// profiles serves /debug/pprof/. A sealed process would be killed for reading its own mappings, which every
// profile in binary form does.
func (s Sources) profiles(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/debug/pprof/")
	switch {
	case name == "profile" && s.Sealed, name == "trace" && s.Sealed:
		http.Error(w, "not available while sealed (start with --seal=false)", http.StatusNotImplemented)
	case name == "profile":
		pprof.Profile(w, r)
	case name == "trace":
		pprof.Trace(w, r)
	case name == "symbol":
		pprof.Symbol(w, r)
	case name == "cmdline":
		pprof.Cmdline(w, r)
	case name == "":
		pprof.Index(w, r)
	default:
		if debug, _ := strconv.Atoi(r.FormValue("debug")); s.Sealed && (debug <= 0 || r.Form.Has("seconds")) {
			q := r.URL.Query()
			q.Set("debug", "1")
			q.Del("seconds")
			r.URL.RawQuery, r.Form = q.Encode(), nil
		}
		pprof.Index(w, r)
	}
}

func (s Sources) explainer() explain.Explainer {
	return explain.Explainer{
		Node: s.Node, Snapshot: s.Snapshot,
		Listeners: func() map[string][]string {
			out := map[string][]string{}
			for _, p := range s.Pods() {
				out[p.UID] = p.Listeners
			}
			return out
		},
		Certificate: func(id mesh.Identity) string {
			for _, c := range s.Certificates() {
				switch {
				case c.Identity != id:
				case c.State != identity.StateAvailable:
					return strings.TrimSuffix("the source has no valid certificate, without which there is no tunnel (NO_CERTIFICATE): "+c.Error, ": ")
				default:
					return ""
				}
			}
			return "the source has no certificate here, without which there is no tunnel (NO_CERTIFICATE)"
		},
	}
}

func (s Sources) logging(w http.ResponseWriter, r *http.Request) {
	switch level := r.FormValue("level"); {
	case r.Method == http.MethodGet:
	case r.Method != http.MethodPost:
		http.Error(w, "want GET or POST", http.StatusMethodNotAllowed)
		return
	case level == "reset":
		s.Level.Set(s.DefaultLevel)
	default:
		if err := s.Level.UnmarshalText([]byte(level)); err != nil {
			http.Error(w, fmt.Sprintf("level %q: want debug, info, warn, error or reset", level), http.StatusBadRequest)
			return
		}
	}
	fmt.Fprintln(w, s.Level.Level())
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // the client went away
}

// NewServer returns a server with the limits that suit pages for people and scrapers.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
}

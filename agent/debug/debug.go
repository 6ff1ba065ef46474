// SPDX-License-Identifier: Apache-2.0

// Package debug is the agent's page for operators: what is captured, why not, what is attached in the kernel,
// what the mesh looks like from here. It reads; the one thing it changes is the log level.
package debug

import (
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/dump"
	"github.com/warren-mesh/warren/mesh/kube"
)

// Pod is one pod of this node, as /debug/pods shows it.
type Pod struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       string    `json:"uid"`
	Enrolled  bool      `json:"enrolled"`
	State     string    `json:"state"` // "captured" or why not
	Published string    `json:"published,omitempty"`
	Broker    string    `json:"broker,omitempty"`  // its last word on the pod
	Ztunnel   string    `json:"ztunnel,omitempty"` // likewise
	Since     time.Time `json:"since,omitzero"`
	// Unpublished is why Published could not be written yet.
	Unpublished string `json:"unpublished,omitempty"`
}

// Sources are where the pages get what they show. All functions are safe for concurrent use.
type Sources struct {
	Node     string
	Version  string
	Snapshot func() *mesh.Snapshot
	Pods     func() []Pod
	Problems func() []kube.Problem
	// Objects is nil where objects come from files.
	Objects func() kube.SourceStatus
	BPF     func(context.Context) (broker.Stats, error)
	Level   *slog.LevelVar
	// Ztunnel connects to the pages of this node's ztunnel.
	Ztunnel func(context.Context) (net.Conn, error)
}

type page struct {
	path, text string
	handler    http.HandlerFunc
}

// Handler serves the pages.
func Handler(s Sources) http.Handler {
	pages := []page{
		{"/config_dump", "the mesh as this agent knows it, in ambient's JSON", s.configDump},
		{"/debug/pods", "this node's pods: captured, and if not, why", s.pods},
		{"/debug/bpf", "the broker's figures: what is attached, what was repaired, each reason counted", s.bpf},
		{"/debug/objects", "where the objects come from: synced or stale, and each kind's watch", s.objects},
		{"/debug/explain", "what becomes of a connection, and why: ?src=shop/web&dst=shop/cart&port=80 (answered by ztunnel)", s.fromZtunnel("/debug/explain")},
		{"/debug/ztunnel/config_dump", "ztunnel's /config_dump", s.fromZtunnel("/config_dump")},
		{"/debug/ztunnel/connections", "ztunnel's live connections", s.fromZtunnel("/debug/connections")},
		{"/debug/ztunnel/top", "who had most traffic lately: ?window=1m&limit=10&format=text", s.fromZtunnel("/debug/top")},
		{"/debug/problems", "objects that were refused: file, line, field", s.problems},
		{"/logging", "POST ?level=debug|info|warn|error; GET shows it", s.logging},
		{"/debug/pprof/", "Go profiles", pprof.Index},
	}
	mux := http.NewServeMux()
	for _, p := range pages {
		mux.HandleFunc(p.path, p.handler)
	}
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) { s.index(w, pages) })
	return mux
}

var indexPage = template.Must(template.New("index").Parse(`<!doctype html><meta charset="utf-8"><title>warren-agent {{.Node}}</title>
<h1>warren-agent on {{.Node}}</h1><p>version {{.Version}}</p>
<table>{{range .Pages}}<tr><td><a href="{{.Path}}">{{.Path}}</a></td><td>{{.Text}}</td></tr>{{end}}</table>
`))

func (s Sources) index(w http.ResponseWriter, pages []page) {
	type row struct{ Path, Text string }
	data := struct {
		Node, Version string
		Pages         []row
	}{Node: s.Node, Version: s.Version}
	for _, p := range pages {
		data.Pages = append(data.Pages, row{p.path, p.text})
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := indexPage.Execute(w, data); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func (s Sources) configDump(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, struct {
		Node    string `json:"node"`
		Version string `json:"version"`
		dump.Snapshot
	}{s.Node, s.Version, dump.Of(s.Snapshot())})
}

func (s Sources) pods(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.Pods()) }

func (s Sources) bpf(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	st, err := s.BPF(ctx)
	if err != nil {
		http.Error(w, fmt.Sprintf("%v (is the broker running on this node?)", err), http.StatusServiceUnavailable)
		return
	}
	writeJSON(w, st)
}

func (s Sources) objects(w http.ResponseWriter, _ *http.Request) {
	if s.Objects == nil {
		writeJSON(w, kube.SourceStatus{Synced: true})
		return
	}
	writeJSON(w, s.Objects())
}

func (s Sources) problems(w http.ResponseWriter, _ *http.Request) {
	out := []map[string]string{}
	for _, p := range s.Problems() {
		out = append(out, map[string]string{"object": p.Object, "source": p.Source, "field": p.Field, "error": p.Err.Error()})
	}
	writeJSON(w, out)
}

func (s Sources) logging(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		if err := s.Level.UnmarshalText([]byte(r.URL.Query().Get("level"))); err != nil {
			http.Error(w, "level must be debug, info, warn or error", http.StatusBadRequest)
			return
		}
	}
	fmt.Fprintln(w, "level", strings.ToLower(s.Level.Level().String()))
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // the peer went away: nobody is left to tell
}

// SPDX-License-Identifier: Apache-2.0

// Package kubeapi is an API server for tests, in one process and in memory: it lists, watches (with bookmarks and
// streamed lists), creates, updates, patches and deletes, in JSON and protobuf, over real connections. It checks
// nothing and defaults nothing; what it does not know it answers with 404, as a server without the CRD would.
package kubeapi

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"github.com/warren-mesh/warren/mesh/kube/apiserver"
)

// Server is one API server. Its methods are safe for concurrent use.
type Server struct {
	t    testing.TB
	addr string

	mu       sync.Mutex
	http     *http.Server
	rv       int
	oldest   int // watches from before this version are told that it has expired
	tables   map[string]*table
	handlers map[string]http.HandlerFunc
	requests map[string]int // by "VERB resource"
	noStream bool
	changed  chan struct{} // closed at each change
}

// Start runs a server until the test ends. It has the built-in kinds the mesh reads; see Install.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{
		t: t, addr: "127.0.0.1:0", rv: 1,
		tables: map[string]*table{}, handlers: map[string]http.HandlerFunc{}, requests: map[string]int{},
		changed: make(chan struct{}),
	}
	for resource, kind := range builtin {
		s.tables[resource] = newTable(kind)
	}
	s.Up()
	t.Cleanup(s.Down)
	return s
}

// Install adds a kind, as creating its CustomResourceDefinition would: "security.istio.io/v1/authorizationpolicies".
func (s *Server) Install(resource, kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tables[resource] = newTable(kind)
}

// Uninstall removes a kind and everything of it, without a word to its watches.
func (s *Server) Uninstall(resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tables, resource)
}

// Handle answers a path of no resource, such as "/openid/v1/jwks", or every request for "tokenreviews".
func (s *Server) Handle(path string, h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers[path] = h
}

// WithoutStreaming makes it a server that can't stream lists.
func (s *Server) WithoutStreaming() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noStream = true
}

// Up listens, at the address it had before if it did.
func (s *Server) Up() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = l.Addr().String()
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	srv := s.http
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.t.Errorf("serve: %v", err)
		}
	}()
}

// Down closes the listener and every connection; objects stay.
func (s *Server) Down() {
	s.mu.Lock()
	srv := s.http
	s.mu.Unlock()
	_ = srv.Close()
}

// Cut ends every watch, as a server that closes its connections does.
func (s *Server) Cut() { s.Down(); s.Up() }

// Expire forgets all history: a watch that wants to go on from an older version is told 410.
func (s *Server) Expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rv += 100
	s.oldest = s.rv
	for _, t := range s.tables {
		t.history = nil
	}
}

// Client is a client of the server.
func (s *Server) Client() *apiserver.Client {
	s.t.Helper()
	c, err := apiserver.New(s.Rest())
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// Rest is the configuration of a client.
func (s *Server) Rest() *rest.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &rest.Config{Host: "http://" + s.addr, QPS: -1}
}

// Requests is how often a request like "watch v1/pods" or "patch v1/pods" came.
func (s *Server) Requests(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[what]
}

// Put stores an object, new or changed.
func (s *Server) Put(resource string, o runtime.Object) {
	s.t.Helper()
	u, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.PutMap(resource, u)
}

// PutMap is Put of an object as JSON has it.
func (s *Server) PutMap(resource string, o map[string]any) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[resource]
	if t == nil {
		s.t.Fatalf("resource %s is not installed", resource)
	}
	s.store(t, o)
}

// Delete removes an object.
func (s *Server) Delete(resource, namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(s.tables[resource], join(namespace, name))
}

// Get returns an object, or nil.
func (s *Server) Get(resource, namespace, name string) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tables[resource]; t != nil {
		return t.objects[join(namespace, name)]
	}
	return nil
}

// All returns the objects of a resource.
func (s *Server) All(resource string) []map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []map[string]any
	for _, o := range s.tables[resource].objects {
		out = append(out, o)
	}
	return out
}

// Wait waits until done reports true, looking again at each change.
func (s *Server) Wait(what string, done func() bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		if done() {
			return
		}
		select {
		case <-changed:
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			s.t.Fatalf("never happened: %s", what)
		}
	}
}

func join(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

// next is the next version; the lock is held.
func (s *Server) next() string {
	s.rv++
	close(s.changed)
	s.changed = make(chan struct{})
	return strconv.Itoa(s.rv)
}

// SPDX-License-Identifier: Apache-2.0

package informers

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/mesh/kube/apiserver"
)

const (
	// gather is how long events are collected so that what happens together is one step.
	gather = 10 * time.Millisecond
	// patience is how long a starting process waits for the API server before it serves the snapshot on disk.
	patience = 3 * time.Second
)

// Config of a Source.
type Config struct {
	// Objects says how objects are read.
	Objects kube.Config
	// StateDir holds the last snapshot across restarts; "" means none is kept.
	StateDir string
	// Patience before the snapshot on disk is served; default 3 s.
	Patience time.Duration
	// Log; nil is silent.
	Log *slog.Logger
}

// Source keeps a mesh.Store equal to what the API server says. Its methods are safe for concurrent use; Run is
// called once.
type Source struct {
	cfg    Config
	log    *slog.Logger
	client *apiserver.Client
	board  *board
	store  *mesh.Store
	local  *kube.LocalPods
	synced chan struct{}
	told   chan struct{} // holds one token when something may have changed that conditions tell

	translator *kube.Translator // Run's own

	mu         sync.Mutex
	problems   []kube.Problem
	meshConfig kube.MeshConfigState
	standing   kube.Namespaces
	serving    serving
	written    time.Time // of the snapshot on disk that is served, or was written last
}

// serving says what the store holds.
type serving uint8

const (
	servingNothing serving = iota
	servingStale           // the snapshot of an earlier process
	servingLive
)

// New returns a source. Nothing is asked before Run.
func New(client *apiserver.Client, cfg Config) *Source {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Patience == 0 {
		cfg.Patience = patience
	}
	if cfg.Objects.Now == nil {
		cfg.Objects.Now = time.Now
	}
	return &Source{
		cfg: cfg, log: cfg.Log, client: client,
		board:  newBoard(cfg.Objects.Now, before(cfg.StateDir)),
		store:  mesh.NewStore(),
		local:  kube.NewLocalPods(),
		synced: make(chan struct{}),
		told:   make(chan struct{}, 1),
	}
}

// Store holds what the API server says. It is empty until Synced.
func (s *Source) Store() *mesh.Store { return s.store }

// Synced is closed when every object has been read once, from the API server or, where that is away, from the
// snapshot on disk; Status tells which.
func (s *Source) Synced() <-chan struct{} { return s.synced }

// LocalPods returns this node's pods, ordered by namespace and name, and a channel that is closed when they
// change.
func (s *Source) LocalPods() ([]kube.LocalPod, <-chan struct{}) { return s.local.All() }

// Standing returns how the namespaces stand to the mesh.
func (s *Source) Standing() kube.Namespaces {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.standing
}

func (s *Source) stand(r kube.Result) {
	if r.Namespaces == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.standing = *r.Namespaces
}

// Problems returns what is wrong now.
func (s *Source) Problems() []kube.Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.problems)
}

// PublishProblems tells authors through p which of their objects were refused, and when they are in force again,
// until ctx ends. One process of the mesh does so at a time; it may be called again after it returned.
func (s *Source) PublishProblems(ctx context.Context, p kube.Publisher) error {
	select {
	case <-s.synced:
	case <-ctx.Done():
		return ctx.Err()
	}
	return kube.Conditions{Publisher: p, Objects: s, Published: s.board.conditions(), Log: s.log}.Run(ctx, s.told)
}

// conditions are those that objects carry from us already.
func (b *board) conditions() map[kube.ConditionKey]kube.Condition {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[kube.ConditionKey]kube.Condition{}
	for _, c := range b.kinds {
		if !c.kind.conditions {
			continue
		}
		for key, data := range c.objects {
			ns, name := split(key)
			object := kube.Key{Kind: c.kind.name, Namespace: ns, Name: name}.String()
			for _, cond := range conditionsIn(data, c.kind.conditionPrefix) {
				out[kube.ConditionKey{Object: object, Type: cond.Type}] = cond
			}
		}
	}
	return out
}

// uid is the object's, if it is there. Of a kind that is not watched it says ("", true).
func (b *board) uid(object string) (uid string, there bool) {
	k, ok := kube.ParseKey(object)
	if !ok {
		return "", true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.kinds, func(c *kindCache) bool { return c.kind.name == k.Kind })
	if i < 0 {
		return "", true
	}
	data, ok := b.kinds[i].objects[strings.TrimPrefix(k.Namespace+"/"+k.Name, "/")]
	return uidIn(data), ok
}

// UID returns the object's uid, and whether the API server has the object, refused or not.
func (s *Source) UID(object string) (uid string, there bool) { return s.board.uid(object) }

// MeshConfig returns how the cluster's MeshConfig stands.
func (s *Source) MeshConfig() kube.MeshConfigState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meshConfig
}

// uidIn is a kept object's uid, "" of a kind that keeps none.
func uidIn(data []byte) string {
	var o struct{ Metadata struct{ UID string } }
	_ = json.Unmarshal(data, &o)
	return o.Metadata.UID
}

// conditionsIn are our conditions in a kept object.
func conditionsIn(data []byte, prefix string) (out []kube.Condition) {
	var o struct {
		Status struct {
			Conditions []struct {
				Type, Status, Reason, Message string
				ObservedGeneration            int64
			}
		}
	}
	if json.Unmarshal(data, &o) != nil {
		return nil
	}
	for _, c := range o.Status.Conditions {
		out = append(out, kube.Condition{
			Type: strings.TrimPrefix(c.Type, prefix), Status: c.Status == "True", Reason: c.Reason, Message: c.Message,
			ObservedGeneration: c.ObservedGeneration,
		})
	}
	return out
}

// Namespaces are the names of all namespaces, in no order.
func (s *Source) Namespaces() []string {
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	var out []string
	for name := range s.board.kind("Namespace").objects {
		out = append(out, name)
	}
	return out
}

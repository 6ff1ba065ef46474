// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
)

const (
	// quiet is how long nothing may happen in the directory before it is read, so that files written
	// together are one step; patience bounds the wait while something always happens.
	quiet    = 20 * time.Millisecond
	patience = 60 * time.Millisecond
	// rescan finds what the kernel's notices missed (overflow, network file systems).
	rescan = 2 * time.Second
)

// Source keeps a mesh.Store equal to what a directory of manifests says. Its methods are safe for
// concurrent use; Run is called once.
type Source struct {
	dir       string
	log       *slog.Logger
	store     *mesh.Store
	synced    chan struct{}
	publisher kube.Publisher

	// Run's own.
	files      map[string]*file
	captures   map[string]capture // by path
	translator *kube.Translator
	merge      merge

	mu       sync.Mutex
	local    map[string]kube.LocalPod
	standing kube.Namespaces
	changed  chan struct{} // closed when local changes
	problems []kube.Problem
	told     chan struct{} // holds one token when something may have changed that conditions tell

	wanted     map[kube.Key]*object // never modified
	meshConfig kube.MeshConfigState
}

// New returns a source for dir. A nil log is silent. Nothing is read before Run.
func New(dir string, cfg kube.Config, log *slog.Logger) *Source {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	cfg.ImplicitNamespaces = true
	return &Source{
		dir: dir, log: log,
		store:      mesh.NewStore(),
		synced:     make(chan struct{}),
		files:      map[string]*file{},
		captures:   map[string]capture{},
		translator: kube.NewTranslator(cfg),
		merge:      newMerge(),
		local:      map[string]kube.LocalPod{},
		changed:    make(chan struct{}),
		told:       make(chan struct{}, 1),
	}
}

// PublishConditions has refused objects told through p: condition Accepted, false with what is wrong, true
// again once it is corrected. Call it before Run, in one process of the mesh.
func (s *Source) PublishConditions(p kube.Publisher) { s.publisher = p }

// Store holds what the directory says. It is empty until Synced.
func (s *Source) Store() *mesh.Store { return s.store }

// Synced is closed when the directory has been read once.
func (s *Source) Synced() <-chan struct{} { return s.synced }

// LocalPods returns this node's pods, ordered by namespace and name, and a channel that is closed when they
// change.
func (s *Source) LocalPods() ([]kube.LocalPod, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.SortedFunc(maps.Values(s.local), func(a, b kube.LocalPod) int {
		return strings.Compare(a.Namespace+"/"+a.Name+"/"+a.UID, b.Namespace+"/"+b.Name+"/"+b.UID)
	})
	return out, s.changed
}

// Standing returns how the namespaces stand to the mesh.
func (s *Source) Standing() kube.Namespaces {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.standing
}

// Problems returns what is wrong now.
func (s *Source) Problems() []kube.Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.problems)
}

// Run reads and watches the directory until ctx ends. The directory has to exist.
func (s *Source) Run(ctx context.Context) error {
	w, err := newWatcher(s.dir)
	if err != nil {
		return err
	}
	defer w.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.publishConditions(ctx) })
	g.Go(func() error { return s.run(ctx, w) })
	if err := g.Wait(); ctx.Err() == nil || err != ctx.Err() {
		return err
	}
	return nil
}

func (s *Source) run(ctx context.Context, w *watcher) error {
	if _, err := s.read(w, nil); err != nil {
		return err
	}
	s.step(true)
	close(s.synced)
	for {
		touched, err := w.wait(ctx)
		if err != nil {
			return err
		}
		changed, err := s.read(w, touched)
		if err != nil {
			s.log.Error("can't read manifests, the last state stays", "dir", s.dir, "err", err)
			continue
		}
		if changed { // mostly it is only time to look
			s.step(false)
		}
	}
}

// read brings files and captures up to date with the directory, and reports whether that changed any.
func (s *Source) read(w *watcher, touched map[string]bool) (changed bool, err error) {
	found, err := walk(s.dir, w.watch)
	if err != nil {
		return false, fmt.Errorf("read manifests %s: %w", s.dir, err)
	}
	for path := range s.files {
		if _, ok := found[path]; !ok {
			delete(s.files, path)
			changed = true
		}
	}
	for path := range s.captures {
		if _, ok := found[path]; !ok {
			delete(s.captures, path)
			changed = true
		}
	}
	for path, info := range found {
		if isCapture(s.dir, path) {
			changed = s.readCapture(path, info, touched[path]) || changed
			continue
		}
		old := s.files[path]
		s.files[path] = old.next(s.dir, path, info, touched[path])
		changed = changed || s.files[path] != old
	}
	return changed, nil
}

// readCapture takes a file below status/pods, and reports whether it had to be read. A wrong one is told in the log and
// counts as missing.
func (s *Source) readCapture(path string, info stat, touched bool) bool {
	if old, ok := s.captures[path]; ok && old.stat == info && !touched {
		return false
	}
	c, err := loadCapture(s.dir, path)
	if err != nil {
		s.log.Warn("ignore capture status", "file", path, "err", err)
	}
	c.stat = info
	s.captures[path] = c
	return true
}

// step gives the store the difference, as one step.
func (s *Source) step(first bool) {
	r, wanted, ps := s.merge.step(s.translator, s.files, s.captures, first)
	s.store.Apply(r.Changes...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Namespaces != nil {
		s.standing = *r.Namespaces
	}
	if len(r.LocalPods)+len(r.RemovedPods) > 0 {
		for _, uid := range r.RemovedPods {
			delete(s.local, uid)
		}
		for _, p := range r.LocalPods {
			s.local[p.UID] = p
		}
		close(s.changed)
		s.changed = make(chan struct{})
	}
	if !slices.EqualFunc(s.problems, ps, sameProblem) {
		for _, p := range ps {
			if !slices.ContainsFunc(s.problems, func(o kube.Problem) bool { return sameProblem(o, p) }) {
				s.log.Warn("manifest refused", "source", p.Source, "object", p.Object, "field", p.Field, "err", p.Err, "partial", p.Partial)
			}
		}
		s.problems = ps
	}
	s.wanted, s.meshConfig = wanted, s.translator.MeshConfig()
	select {
	case s.told <- struct{}{}:
	default:
	}
}

func sameProblem(a, b kube.Problem) bool { return a.Error() == b.Error() && a.Field == b.Field }

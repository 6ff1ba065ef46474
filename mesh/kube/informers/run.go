// SPDX-License-Identifier: Apache-2.0

package informers

import (
	"context"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
)

// Run follows the API server until ctx ends, and returns nil then. A server that is away is waited for.
func (s *Source) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range s.board.kinds {
		stopped, err := c.follow(ctx, s.client, s.log)
		if err != nil {
			return err
		}
		g.Go(func() error { stopped(); return nil })
	}
	g.Go(func() error { s.serve(ctx); return nil })
	if s.cfg.StateDir != "" {
		g.Go(func() error { s.save(ctx); return nil })
	}
	return g.Wait()
}

// serve brings the store up to date, step by step.
func (s *Source) serve(ctx context.Context) {
	waited := time.NewTimer(s.cfg.Patience)
	defer waited.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-waited.C:
			s.serveStale()
			continue
		case <-s.board.wake:
		}
		if s.translator != nil { // what is there at the start need not wait
			select {
			case <-ctx.Done():
				return
			case <-time.After(gather):
			}
		}
		s.step()
	}
}

// step gives the store the difference, as one step.
func (s *Source) step() {
	evs, unreadable, live := s.board.take(s.translator == nil)
	if !live {
		return
	}
	if s.translator == nil {
		t := kube.NewTranslator(s.cfg.Objects)
		s.translator = t
		t.Apply(evs)
		s.begin(t, t.Synced(), unreadable, servingLive)
		return
	}
	r := s.translator.Apply(evs)
	s.store.Apply(r.Changes...)
	s.local.Apply(r)
	s.stand(r)
	s.tell(s.translator, slices.Concat(unreadable, s.translator.Problems())) // after the pods: see begin
}

// serveStale serves the snapshot on disk while the API server is away. It is read by a translator of its own:
// what an earlier process saw is no part of what this one sees happen.
func (s *Source) serveStale() {
	if s.translator != nil {
		return
	}
	if s.cfg.StateDir == "" {
		s.log.Warn("the API server does not give everything", "waiting", s.Status().Waiting())
		return
	}
	kept, written, err := load(s.cfg.StateDir)
	if err != nil {
		s.log.Warn("no snapshot to serve while the API server does not give everything", "err", err, "waiting", s.Status().Waiting())
		return
	}
	t := kube.NewTranslator(s.cfg.Objects)
	evs, problems := eventsOf(kept)
	t.Apply(evs)
	s.log.Warn("the API server does not give everything: serving the last snapshot; pods enrolled since are not captured", "written", written, "waiting", s.Status().Waiting())
	s.mu.Lock()
	s.written = written
	s.mu.Unlock()
	s.begin(t, t.Synced(), problems, servingStale)
}

// begin makes r, t's first result, all the store holds. That it is the present comes last: who hears so, and of no
// problem, takes the pods for all there are.
func (s *Source) begin(t *kube.Translator, r kube.Result, unreadable []kube.Problem, what serving) {
	s.store.Update(func(old *mesh.Snapshot) []mesh.Change { return difference(old, r.Changes) })
	s.local.Replace(r.LocalPods)
	s.stand(r)
	s.tell(t, slices.Concat(unreadable, t.Problems()))
	s.mu.Lock()
	before := s.serving
	s.serving = what
	s.mu.Unlock()
	switch {
	case before == servingNothing:
		close(s.synced)
	case what == servingLive:
		s.log.Info("the API server is back: the snapshot is no longer stale")
	}
}

// tell keeps the problems and how the MeshConfig stands, and logs the new problems.
func (s *Source) tell(t *kube.Translator, now []kube.Problem) {
	t.StandIns(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.meshConfig = t.MeshConfig()
	for _, p := range now {
		if !slices.ContainsFunc(s.problems, func(o kube.Problem) bool { return sameProblem(o, p) }) {
			s.log.Warn("object refused", "object", p.Object, "field", p.Field, "err", p.Err, "partial", p.Partial)
		}
	}
	s.problems = now
	select {
	case s.told <- struct{}{}:
	default:
	}
}

func sameProblem(a, b kube.Problem) bool { return a.Error() == b.Error() && a.Field == b.Field }

// difference is what turns old into what the puts alone would make: without those that change nothing, so that
// nobody is told of them, and with the end of what is not among them.
func difference(old *mesh.Snapshot, puts []mesh.Change) []mesh.Change {
	workloads, services, policies := map[string]bool{}, map[mesh.Name]bool{}, map[mesh.Name]bool{}
	var out []mesh.Change
	keep := func(c mesh.Change, same bool) {
		if !same {
			out = append(out, c)
		}
	}
	for _, c := range puts {
		switch c := c.(type) {
		case mesh.PutWorkload:
			workloads[c.Workload.UID] = true
			keep(c, reflect.DeepEqual(old.Workload(c.Workload.UID), c.Workload))
		case mesh.PutService:
			services[c.Service.NamespacedName()] = true
			keep(c, reflect.DeepEqual(old.Service(c.Service.NamespacedName()), c.Service))
		case mesh.PutPolicy:
			policies[c.Policy.Name] = true
			keep(c, reflect.DeepEqual(old.Policy(c.Policy.Name), c.Policy))
		case mesh.PutConfig:
			keep(c, reflect.DeepEqual(old.Config(), c.Config))
		default:
			keep(c, false)
		}
	}
	old.Workloads(func(w *mesh.Workload) bool {
		keep(mesh.DeleteWorkload{UID: w.UID}, workloads[w.UID])
		return true
	})
	old.Services(func(v *mesh.Service) bool {
		keep(mesh.DeleteService{Name: v.NamespacedName()}, services[v.NamespacedName()])
		return true
	})
	old.Policies(func(p *mesh.Policy) bool {
		keep(mesh.DeletePolicy{Name: p.Name}, policies[p.Name])
		return true
	})
	return out
}

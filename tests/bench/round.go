// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// overhead is what a run takes besides its duration: starting a client, connecting, ending.
const overhead = 150 * time.Millisecond

// rounds runs every scenario on all systems in turn, so that whatever else the machine does falls on all of them.
func (b *bed) rounds(ctx context.Context, s settings, t *tally) error {
	for _, sc := range s.scenarios {
		rounds, each := s.rounds, s.duration+overhead
		if sc.once() {
			rounds, each = 1, time.Second
		}
		took := time.Duration(rounds*len(s.systems)) * each
		fmt.Fprintf(b.out, "%s: %d x %v, about %v\n", sc.name, rounds, s.systems, took.Round(time.Second))
		for n := range rounds {
			for _, sys := range b.systems {
				if sys.near != sc.near {
					continue
				}
				profiled := func() error { return nil }
				if b.profiles.wanted() && sys.name == warren && !sc.once() && n == rounds-1 {
					profiled = b.profiles.start(sc.name, s.duration)
				}
				err := b.once(ctx, s, sc, sys, t)
				if err = errors.Join(err, profiled()); err != nil {
					return fmt.Errorf("%s, %s: %w", sc.name, sys.name, err)
				}
			}
		}
		t.printShares(b.out, sc.name)
	}
	return nil
}

func (b *bed) once(ctx context.Context, s settings, sc scenario, sys *system, t *tally) error {
	if sc.once() {
		if len(sys.groups) == 0 {
			return nil
		}
		return sys.memory(ctx, s, sc, t)
	}
	o := order{Kind: sc.kind, Target: sys.target, Conns: sc.conns, Size: sc.size, Rate: sc.rate, Duration: s.duration}
	r, err := sys.attempt(ctx, o)
	if err != nil {
		return err
	}
	if r.Operations == 0 && r.Bytes == 0 {
		return errors.New("nothing was carried")
	}
	total := time.Duration(-1)
	for i, g := range sys.groups {
		total = max(total, 0) + r.cpu[i]
		t.share(sc.name, sys.name, g.name, r.cpu[i])
	}
	t.add(sc.name, sys.name, sc.figures(r.outcome, total))
	return nil
}

// attempted is an outcome and what it cost each group.
type attempted struct {
	outcome
	cpu []time.Duration
}

// attempt runs one load between two readings of the mesh's CPU clocks.
func (s *system) attempt(ctx context.Context, o order) (attempted, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Duration+3*patience)
	defer cancel()
	var a attempted
	w, err := s.load(ctx, o)
	if err != nil {
		return a, err
	}
	before, err := cpuTimes(s.groups)
	if err != nil {
		return a, err
	}
	r, err := w.proceed()
	if err != nil {
		return a, errors.Join(err, w.wait())
	}
	after, err := cpuTimes(s.groups)
	if err != nil {
		return a, err
	}
	a.outcome = r
	for i := range after {
		a.cpu = append(a.cpu, after[i]-before[i])
	}
	return a, w.wait()
}

func (s *system) load(ctx context.Context, o order) (*worker, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	return startWorker(ctx, s.client, roleLoad, string(b))
}

// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Run keeps the authority equal to its storage, and rotates the intermediate in time, until ctx ends. What fails
// is logged and tried again; meanwhile the authority signs with what it has.
func (a *Authority) Run(ctx context.Context) error {
	t := time.NewTicker(a.cfg.Check)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			_ = a.Rotate() // is the problem now
		}
	}
}

// Rotate takes up what the operator or other processes wrote, and makes a new intermediate when less than half of the
// present one's lifetime is left; certificates the former signed stay valid. An error leaves all as it was.
func (a *Authority) Rotate() error {
	err := a.look()
	if err != nil {
		err = fmt.Errorf("read the authority's files: %w", err)
		a.mu.Lock()
		a.failed++
		a.mu.Unlock()
		a.complain(err)
	}
	return err
}

func (a *Authority) look() error {
	a.looking.Lock()
	defer a.looking.Unlock()
	now := a.cfg.Now()
	f, err := a.cfg.Storage.Open()
	if err != nil {
		return err
	}
	defer f.Close()
	return a.take(f, now)
}

// take reads the files, which were opened after now, and begins to go by them. Only one take runs at a time.
func (a *Authority) take(f Files, now time.Time) error {
	last := a.current.Load()
	next, err := a.read(f, now)
	if err != nil {
		return err
	}
	next.crl = readCRL(f, next, last, now)
	a.complain(errors.Join(next.crl.problem, next.soon(now)))
	changed := !next.same(last)
	if changed {
		a.announce(last, next)
		a.current.Store(next)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.looked = now
	if !next.crl.kept {
		a.listsRead = now
	}
	if changed {
		close(a.changed)
		a.changed = make(chan struct{})
	}
	return nil
}

// announce logs what changes.
func (a *Authority) announce(last, next *material) {
	root := next.path[len(next.path)-1]
	a.cfg.Log.Info("the authority signs with", "subject", next.signing.cert.Subject.String(), "serial", serial(next.signing.cert),
		"not_after", next.until(), "root", Fingerprint(root), "brought", next.brought, "trusted_roots", len(next.roots))
	if last != nil && !slices.ContainsFunc(last.roots, root.Equal) {
		a.cfg.Log.Warn("certificates are signed under a root that was not trusted before: nodes refuse it until they have it (add it to "+BundleFile+" first, then sign with it)", "root", Fingerprint(root))
	}
}

// complain keeps err as what is wrong, and logs it once.
func (a *Authority) complain(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	was := a.problem
	a.problem = err
	if fmt.Sprint(was) == fmt.Sprint(err) {
		return
	}
	close(a.changed)
	a.changed = make(chan struct{})
	if err != nil {
		a.cfg.Log.Error("the authority needs its operator", "err", err)
	} else {
		a.cfg.Log.Info("the authority's files are in order again")
	}
}

// soon complains of what expires within a tenth of its life, and is not replaced by us.
func (m *material) soon(now time.Time) error {
	for i, c := range m.path {
		if i == 0 && !m.brought {
			continue
		}
		if left := c.NotAfter.Sub(now); left < c.NotAfter.Sub(c.NotBefore)/10 {
			return fmt.Errorf("%s expires at %s, and nothing signed outlives it (see docs/operations/certificates.md)", c.Subject, c.NotAfter.Format(time.RFC3339))
		}
	}
	return nil
}

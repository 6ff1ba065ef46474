// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"fmt"
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
			if err := a.Rotate(); err != nil {
				a.cfg.Log.Error("look after the authority's certificates", "err", err)
			}
		}
	}
}

// Rotate takes up what other processes wrote, and makes a new intermediate when less than half of the present
// one's lifetime is left; certificates the former signed stay valid.
func (a *Authority) Rotate() error {
	now := a.cfg.Now()
	f, err := a.cfg.Storage.Open()
	if err != nil {
		return fmt.Errorf("rotate CA: %w", err)
	}
	defer f.Close()
	if err := a.load(f, now); err != nil {
		return fmt.Errorf("rotate CA: %w", err)
	}
	return a.rotateOpen(f, now)
}

func (a *Authority) rotationDue(now time.Time) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.issuing == nil {
		return true
	}
	c := a.issuing.cert
	return now.After(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2))
}

// rotateOpen makes the next intermediate if it is due. A process that must not write leaves that to the one that
// does, as long as there is an intermediate to sign with.
func (a *Authority) rotateOpen(f Files, now time.Time) error {
	if !a.rotationDue(now) {
		return nil
	}
	if err := f.Writable(); err != nil {
		a.mu.RLock()
		defer a.mu.RUnlock()
		if a.issuing != nil && now.Before(a.issuing.cert.NotAfter) {
			return nil
		}
		return err
	}
	a.mu.RLock()
	root := a.root
	a.mu.RUnlock()
	next, err := newIssuing(root, a.cfg.TrustDomain, now)
	if err != nil {
		return err
	}
	if err := writePair(f, IssuingFile, next); err != nil {
		return err
	}
	a.mu.Lock()
	a.issuing = next
	a.mu.Unlock()
	a.cfg.Log.Info("made a new issuing certificate", "serial", serial(next.cert), "not_after", next.cert.NotAfter)
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"fmt"
	"time"
)

// Run rotates the intermediate in time until ctx ends. A rotation that fails is logged and tried again.
func (a *Authority) Run(ctx context.Context) error {
	t := time.NewTicker(rotateCheck)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := a.Rotate(); err != nil {
				a.cfg.Log.Error("rotate the issuing certificate", "err", err)
			}
		}
	}
}

// Rotate makes a new intermediate when less than half of the present one's lifetime is left; certificates it
// signed stay valid. Another process of the same directory may have done so: then its work is taken up.
func (a *Authority) Rotate() error {
	now := a.cfg.Now()
	if !a.rotationDue(now) {
		return nil
	}
	d, err := lockDir(a.cfg.Dir)
	if err != nil {
		return fmt.Errorf("rotate CA: %w", err)
	}
	defer d.unlock()
	if err := a.load(d, now); err != nil {
		return fmt.Errorf("rotate CA: %w", err)
	}
	return a.rotateLocked(d, now)
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

// rotateLocked makes the next intermediate if it is due; d's lock keeps other processes out.
func (a *Authority) rotateLocked(d *dir, now time.Time) error {
	if !a.rotationDue(now) {
		return nil
	}
	a.mu.RLock()
	root := a.root
	a.mu.RUnlock()
	next, err := newIssuing(root, a.cfg.TrustDomain, now)
	if err != nil {
		return err
	}
	if err := d.writePair(issuingFile, next); err != nil {
		return err
	}
	a.mu.Lock()
	a.issuing = next
	a.mu.Unlock()
	a.cfg.Log.Info("made a new issuing certificate", "serial", serial(next.cert), "not_after", next.cert.NotAfter)
	return nil
}

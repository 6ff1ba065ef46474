// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/warren-mesh/warren/control/ca"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/mesh/manifests"
)

// Directory publishes in a directory of manifests, where every node reads it.
type Directory struct {
	Dir  string
	told *string // the problem last published
}

var _ Publisher = (*Directory)(nil)

// PublishTrust writes each file unless it holds just that already: all nodes are woken by a write.
func (d *Directory) PublishTrust(_ context.Context, t ca.Trust) error {
	err := put(manifests.BundlePath(d.Dir), t.Roots)
	switch path := manifests.RevokedPath(d.Dir); {
	case t.KeepRevoked:
	case t.Revoked != nil:
		err = errors.Join(err, put(path, t.Revoked))
	default:
		if rm := os.Remove(path); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
			err = errors.Join(err, rm)
		}
	}
	return err
}

func put(path string, data []byte) error {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) {
		return nil
	}
	return manifests.Publish(path, data)
}

// PublishProblem writes it as a condition.
func (d *Directory) PublishProblem(ctx context.Context, problem error) error {
	c := kube.Condition{Type: "Ready", Status: true, Reason: kube.ReasonAccepted}
	if problem != nil {
		c.Status, c.Reason, c.Message = false, kube.ReasonInvalid, problem.Error()
	}
	if d.told != nil && *d.told == c.Message {
		return nil
	}
	p := manifests.Publisher{Dir: d.Dir}
	if err := p.PublishCondition(ctx, "CertificateAuthority warren-ca", c); err != nil {
		return err
	}
	d.told = &c.Message
	return nil
}

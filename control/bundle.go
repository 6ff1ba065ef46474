// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"context"

	"github.com/warren-mesh/warren/mesh/manifests"
)

// DirBundle publishes the bundle in a directory of manifests, where every node reads it.
type DirBundle struct{ Dir string }

var _ Bundle = DirBundle{}

// PublishBundle writes the file unless it holds just that already: all nodes are woken by a write.
func (b DirBundle) PublishBundle(_ context.Context, pem []byte) error {
	if have, err := manifests.ReadBundle(b.Dir); err == nil && bytes.Equal(have, pem) {
		return nil
	}
	return manifests.PublishBundle(b.Dir, pem)
}

// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Push writes one image, or the same image of several architectures as one index, to the registry that ref names,
// with the credentials `docker login` and its like left for it. It returns ref with the digest that now stands for it.
func Push(ctx context.Context, ref string, images ...Image) (string, error) {
	tag, err := name.ParseReference(ref)
	if err != nil {
		return "", fmt.Errorf("push image: %w", err)
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	var digest v1.Hash
	if len(images) == 1 {
		if err = remote.Write(tag, images[0].image, options...); err == nil {
			digest, err = images[0].image.Digest()
		}
	} else {
		digest, err = pushIndex(tag, images, options)
	}
	if err != nil {
		return "", fmt.Errorf("push image %s: %w", ref, err)
	}
	return tag.Context().Digest(digest.String()).Name(), nil
}

func pushIndex(tag name.Reference, images []Image, options []remote.Option) (v1.Hash, error) {
	index := v1.ImageIndex(empty.Index)
	for _, i := range images {
		c, err := i.image.ConfigFile()
		if err != nil {
			return v1.Hash{}, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: i.image, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: c.OS, Architecture: c.Architecture},
		}})
	}
	if err := remote.WriteIndex(tag, index, options...); err != nil {
		return v1.Hash{}, err
	}
	return index.Digest()
}

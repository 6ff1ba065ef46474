// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Image describes an image made here: `FROM scratch` and a few files.
type Image struct {
	Ref        string            // such as example.com/echo:test; a tag other than latest, so that nothing tries to pull it
	Files      map[string]string // path in the image to path on this machine; executable, owned by root
	Entrypoint []string
	User       string // such as 65532:65532; empty is root
}

// Binary is an image with one static binary, which is its entry point.
func Binary(ref, file string) Image {
	at := "/" + path.Base(file)
	return Image{Ref: ref, Files: map[string]string{at: file}, Entrypoint: []string{at}}
}

// WriteArchive writes the image as an archive that `ctr images import` and `docker load` read. Equal inputs make equal archives.
func (i Image) WriteArchive(w io.Writer) error {
	tag, img, err := i.make()
	if err != nil {
		return fmt.Errorf("make image %s: %w", i.Ref, err)
	}
	if err := tarball.Write(tag, img, w); err != nil {
		return fmt.Errorf("write image %s: %w", i.Ref, err)
	}
	return nil
}

// Push writes the image to the registry its name names, with the credentials that `docker login` and its like left.
func (i Image) Push(ctx context.Context) error {
	tag, img, err := i.make()
	if err == nil {
		err = remote.Write(tag, img, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain))
	}
	if err != nil {
		return fmt.Errorf("push image %s: %w", i.Ref, err)
	}
	return nil
}

func (i Image) make() (name.Tag, v1.Image, error) {
	tag, err := name.NewTag(i.Ref)
	if err != nil {
		return tag, nil, err
	}
	layer, err := i.layer()
	if err != nil {
		return tag, nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return tag, nil, err
	}
	c, err := img.ConfigFile()
	if err != nil {
		return tag, nil, err
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Created = "linux", arch, v1.Time{Time: time.Unix(0, 0).UTC()}
	c.Config = v1.Config{Entrypoint: i.Entrypoint, User: i.User, WorkingDir: "/", Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin:/"}}
	img, err = mutate.ConfigFile(img, c)
	return tag, img, err
}

// layer holds the files and the directories programs expect.
func (i Image) layer() (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	made := map[string]bool{"/": true, ".": true}
	var mkdir func(string) error
	mkdir = func(dir string) error {
		if made[dir] {
			return nil
		}
		if err := mkdir(path.Dir(dir)); err != nil {
			return err
		}
		made[dir] = true
		mode := int64(0o755)
		if dir == "/tmp" {
			mode = 0o1777
		}
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(dir, "/") + "/", Mode: mode})
	}
	for _, dir := range []string{"/dev", "/etc", "/proc", "/sys", "/tmp", "/var/run"} {
		if err := mkdir(dir); err != nil {
			return nil, err
		}
	}
	for _, at := range sortedKeys(i.Files) {
		content, err := os.ReadFile(i.Files[at])
		if err != nil {
			return nil, err
		}
		if err := mkdir(path.Dir(at)); err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(at, "/"), Mode: 0o755, Size: int64(len(content))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithCompressionLevel(0))
}

// LoadImage makes the image known to every running node's containerd.
func (c *Cluster) LoadImage(ctx context.Context, i Image) error {
	var b bytes.Buffer
	if err := i.WriteArchive(&b); err != nil {
		return err
	}
	return c.importAll(ctx, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
}

// LoadArchive does the same with an archive from a file: what `docker save` or Image.WriteArchive wrote, or an OCI layout's tar.
func (c *Cluster) LoadArchive(ctx context.Context, file string) error {
	return c.importAll(ctx, func() (io.ReadCloser, error) { return os.Open(file) })
}

func (c *Cluster) importAll(ctx context.Context, open func() (io.ReadCloser, error)) error {
	var wait sync.WaitGroup
	errs := make([]error, len(c.nodes))
	for i, n := range c.nodes {
		wait.Go(func() { errs[i] = c.importImage(ctx, n, open) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

func (c *Cluster) importImage(ctx context.Context, n *node, open func() (io.ReadCloser, error)) error {
	archive, err := open()
	if err != nil {
		return fmt.Errorf("load image: %w", err)
	}
	defer archive.Close()
	if _, err := n.Run(ctx, archive, c.tools.path("containerd", "ctr"), "-n", "k8s.io", "images", "import", "-"); err != nil {
		return fmt.Errorf("load image: %w", err)
	}
	return nil
}

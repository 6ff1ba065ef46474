// SPDX-License-Identifier: Apache-2.0

package install

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// DefaultRepository names images that are loaded into nodes and never pulled.
const DefaultRepository = "warren.dev/warren"

// BuildOptions of an image. The zero value builds this machine's, of the source tree the caller stands in.
type BuildOptions struct {
	// Ref is the image's name. One without tag or digest gets a tag made of its content, so that other content is
	// another image to a node that keeps the old one. Default DefaultRepository.
	Ref string
	// Arch is amd64 or arm64. Default: this machine's.
	Arch string
	// Source is a directory in a checkout of Warren. Default: the working directory.
	Source string
	// Output is the archive to write. Default: a file named by the image's content below the user's cache; such files are
	// removed after a day.
	Output string
	// Progress gets a line for each step; nil is silence.
	Progress io.Writer
}

// Image is one that was built.
type Image struct {
	Ref     string // with its tag
	Archive string // file in docker-archive format
	Digest  string // of the manifest a registry would show, "sha256:..."

	image v1.Image
}

// BuildImage compiles Warren's programs statically and makes one image of them: FROM scratch, equal bytes for equal
// source and compiler. It needs Go, and no Docker. Another process may build at the same time.
func BuildImage(ctx context.Context, o BuildOptions) (Image, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	dir, err := os.MkdirTemp("", "warren-image-")
	if err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	defer os.RemoveAll(dir)
	s, err := findSource(ctx, o.Source)
	if err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	if err := compile(ctx, o, s, dir); err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	img, err := assemble(o.Arch, dir, s)
	if err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	out, err := tagged(o.Ref, img)
	if err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	if o.Output == "" {
		if o.Output, err = cached(out); err != nil {
			return Image{}, fmt.Errorf("build image %s: %w", out.Ref, err)
		}
	}
	if out.Archive, err = archive(o.Output, out); err != nil {
		return Image{}, fmt.Errorf("build image %s: %w", out.Ref, err)
	}
	progress(o.Progress, "image %s in %s", out.Ref, out.Archive)
	return out, nil
}

func (o BuildOptions) withDefaults() (BuildOptions, error) {
	if o.Arch == "" {
		o.Arch = runtime.GOARCH
	}
	if !slices.Contains([]string{"amd64", "arm64"}, o.Arch) {
		return o, fmt.Errorf("architecture %q (want amd64 or arm64)", o.Arch)
	}
	if o.Ref == "" {
		o.Ref = DefaultRepository
	}
	return o, nil
}

// archiveKept is how long an archive stays in the cache.
const archiveKept = 24 * time.Hour

// cached is a file for the image's archive that no other image has: another process may build one meanwhile.
func cached(i Image) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("place for the archive: %w (name one)", err)
	}
	dir := filepath.Join(cache, "warren-image")
	old, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	for _, f := range old {
		if st, serr := os.Stat(f); serr == nil && time.Since(st.ModTime()) > archiveKept {
			err = errors.Join(err, os.Remove(f))
		}
	}
	_, hex, _ := strings.Cut(i.Digest, ":")
	return filepath.Join(dir, "warren-"+hex[:12]+".tar"), err
}

// epoch is the time of everything in the image.
var epoch = time.Unix(0, 0).UTC()

// assemble makes the image of the programs in dir.
func assemble(arch, dir string, s source) (v1.Image, error) {
	content, err := layer(dir)
	if err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, err
	}
	c, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Created = "linux", arch, v1.Time{Time: epoch}
	c.Config = v1.Config{
		// The parts that need root say so in their pods.
		User: "65532:65532", WorkingDir: "/", Env: []string{"PATH=/"}, Cmd: []string{"/warrenctl"},
		Labels: map[string]string{
			"org.opencontainers.image.title":       "Warren",
			"org.opencontainers.image.description": "sidecarless service mesh: node broker and agent, ztunnel, CNI plugin, control, warrenctl",
			"org.opencontainers.image.source":      "https://github.com/warren-mesh/warren",
			"org.opencontainers.image.licenses":    "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)",
			"org.opencontainers.image.revision":    s.revision,
			"org.opencontainers.image.version":     s.version,
		},
	}
	return mutate.ConfigFile(img, c)
}

// layer is a tar of the programs, and of the directories they expect.
func layer(dir string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, d := range []string{"dev/", "etc/", "proc/", "run/", "sys/", "tmp/", "var/", "var/run/"} {
		mode := int64(0o755)
		if d == "tmp/" {
			mode = 0o1777
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: mode, ModTime: epoch}); err != nil {
			return nil, err
		}
	}
	for _, p := range Programs {
		content, err := os.ReadFile(filepath.Join(dir, p))
		if err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{Name: p, Mode: 0o755, Size: int64(len(content)), ModTime: epoch}); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

// tagged gives the image its name.
func tagged(ref string, img v1.Image) (Image, error) {
	digest, err := img.Digest()
	if err != nil {
		return Image{}, err
	}
	if !strings.Contains(ref[strings.LastIndex(ref, "/")+1:], ":") {
		ref += ":" + digest.Hex[:12]
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		return Image{}, fmt.Errorf("reference %q: %w", ref, err)
	}
	return Image{Ref: tag.Name(), Digest: digest.String(), image: img}, nil
}

// archive writes the image by rename, for a reader that may look at any time.
func archive(path string, i Image) (_ string, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".warren-*.tar")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	tag, err := name.NewTag(i.Ref)
	if err != nil {
		return "", err
	}
	if err := errors.Join(tarball.Write(tag, i.image, f), f.Chmod(0o644), f.Close()); err != nil {
		return "", err
	}
	return path, os.Rename(f.Name(), path)
}

func progress(w io.Writer, format string, args ...any) {
	if w != nil {
		fmt.Fprintf(w, format+"\n", args...)
	}
}

// SPDX-License-Identifier: Apache-2.0

package install

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// fakePrograms is a directory of something in place of each program.
func fakePrograms(t *testing.T, content string) string {
	dir := t.TempDir()
	for _, p := range Programs {
		if err := os.WriteFile(filepath.Join(dir, p), []byte(p+content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func build(t *testing.T, ref, content string) Image {
	t.Helper()
	img, err := assemble("arm64", fakePrograms(t, content), source{revision: "abc", version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	out, err := tagged(ref, img)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEqualProgramsMakeEqualImages(t *testing.T) {
	a, b, c := build(t, "r.example/warren", "1"), build(t, "r.example/warren", "1"), build(t, "r.example/warren", "2")
	if a.Ref != b.Ref || a.Digest != b.Digest {
		t.Errorf("same programs: %s %s and %s %s", a.Ref, a.Digest, b.Ref, b.Digest)
	}
	if a.Ref == c.Ref {
		t.Errorf("other programs have the same name %s", a.Ref)
	}
	if got := build(t, "localhost:5000/warren:v7", "1").Ref; got != "localhost:5000/warren:v7" {
		t.Errorf("a name with a tag became %s", got)
	}
	if got := build(t, "localhost:5000/warren", "1").Ref; got == "localhost:5000/warren" {
		t.Errorf("the port was taken for a tag: %s", got)
	}
}

func TestArchiveCanBeReadBack(t *testing.T) {
	i := build(t, "r.example/warren:v1", "1")
	path, err := archive(filepath.Join(t.TempDir(), "sub", "warren.tar"), i)
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c.Architecture != "arm64" || c.Config.User != "65532:65532" || c.Config.Labels["org.opencontainers.image.revision"] != "abc" {
		t.Errorf("config: %+v", c)
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".warren-*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestUnknownArchitectureIsRefused(t *testing.T) {
	if _, err := (BuildOptions{Arch: "mips"}).withDefaults(); err == nil {
		t.Error("mips was taken")
	}
}

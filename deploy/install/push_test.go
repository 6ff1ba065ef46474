// SPDX-License-Identifier: Apache-2.0

package install

import (
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func TestPush(t *testing.T) {
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	one := build(t, host+"/warren:v1", "1")
	other := one
	img, err := assemble("amd64", fakePrograms(t, "2"), source{})
	if err != nil {
		t.Fatal(err)
	}
	other.image = img

	got, err := Push(t.Context(), one.Ref, one)
	if err != nil || got != host+"/warren@"+one.Digest {
		t.Errorf("one architecture: %s, %v", got, err)
	}
	pinned, err := Push(t.Context(), host+"/warren:v2", one, other)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(pinned)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) != 2 || m.Manifests[0].Platform.Architecture != "arm64" || m.Manifests[1].Platform.Architecture != "amd64" {
		t.Errorf("two: %+v, %v", m, err)
	}
}

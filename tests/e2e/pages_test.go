// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/warren-mesh/warren/tests/cluster"
	"github.com/warren-mesh/warren/tests/e2e/demo"
	"github.com/warren-mesh/warren/tests/page"
)

// shopImage is the sample shop's.
const shopImage = "warren.dev/shop:e2e"

// followPages types what the pages have for a place, where the shop runs.
func followPages(t *testing.T, m *Mesh, at page.Place) {
	r := m.Reader(t)
	for _, p := range page.At(at) {
		shown := manifests(t, p)
		if p.File == "docs/reference/meshconfig.md" {
			if err := os.WriteFile(filepath.Join(r.home, "meshconfig.yaml"), []byte(shown[0]), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		t.Run(p.File, func(t *testing.T) { p.Follow(t, at, r.types) })
	}
}

func manifests(t *testing.T, p page.Page) []string {
	t.Helper()
	shown, err := p.Manifests()
	if err != nil {
		t.Fatal(err)
	}
	return shown
}

// TestPageManifests has the API server check every object that a page shows whole.
func TestPageManifests(t *testing.T) {
	m := Shared(t)
	ns := m.Namespace(t, "manifests")
	r := m.Reader(t)
	checked := 0
	for _, p := range page.All() {
		for _, y := range manifests(t, p) {
			y = strings.ReplaceAll(y, "namespace: shop", "namespace: "+ns.Name)
			if out, err := r.types(t, "kubectl apply --dry-run=server --validate=strict -f - <<'END'\n"+y+"END\n"); err != nil {
				t.Errorf("%s: %v: %s\n%s", p.File, err, out, y)
			}
			checked++
		}
	}
	if checked < 4 {
		t.Errorf("the pages show %d objects", checked)
	}
}

// TestMeshWidePages types what the pages have that changes the whole mesh: tracing, MeshConfig, certificates.
func TestMeshWidePages(t *testing.T) {
	m := Alone(t)
	if err := demo.WithShop(t.Context(), "", shopImage, func(i cluster.Image) error { return m.LoadImage(t.Context(), i) }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		const settings = "apiVersion: warren.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\n"
		err := m.Delete(context.Background(), settings) // where a page was left half-way
		if err = errors.Join(err, demo.Down(context.Background(), demo.Options{Kubeconfig: m.Kubeconfig()})); err != nil {
			t.Error(err)
		}
	})
	m.startZipkin(t)
	if err := demo.Open(t.Context(), m.API, shopImage); err != nil {
		t.Fatal(err)
	}
	m.keepAuthority(t)
	followPages(t, m, page.Alone)
}

// SPDX-License-Identifier: Apache-2.0

package install

import (
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/kube/fake"
	rcommon "helm.sh/helm/v4/pkg/release/common"
	release "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage"
	"helm.sh/helm/v4/pkg/storage/driver"
)

// releases is a Helm without a cluster, and the chart.
type releases struct {
	helm  *action.Configuration
	chart *chart.Chart
}

func newReleases(t *testing.T) *releases {
	t.Helper()
	memory := driver.NewMemory()
	memory.SetNamespace(Namespace)
	c := action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler))
	c.Releases, c.KubeClient, c.Capabilities = storage.Init(memory), &fake.PrintingKubeClient{Out: io.Discard}, common.DefaultCapabilities.Copy()
	c.Capabilities.KubeVersion = renderVersion
	s, err := findSource(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	ch, err := loadChart(s)
	if err != nil {
		t.Fatal(err)
	}
	return &releases{c, ch}
}

// bring is what Install does with values and image.
func (r *releases) bring(t *testing.T, given map[string]any, image string) error {
	t.Helper()
	was, err := installed(r.helm)
	if err != nil {
		t.Fatal(err)
	}
	values := overlay(given, image, was)
	if err := checkTrustDomain(was, r.chart, values); err != nil {
		return err
	}
	return apply(t.Context(), r.helm, r.chart, Options{}, was, values)
}

func (r *releases) config(t *testing.T) map[string]any {
	t.Helper()
	was, err := installed(r.helm)
	if err != nil || was == nil {
		t.Fatalf("installed: %v, %v", was, err)
	}
	return was.Config
}

// TestValuesOfAnUpgrade goes through the life of a release.
func TestValuesOfAnUpgrade(t *testing.T) {
	r := newReleases(t)
	deadline := map[string]any{"cniDeadline": "20s"}
	for _, step := range []struct {
		name         string
		given        map[string]any
		image        string
		want         map[string]any // nil: the release is as it was
		wantErr      string
		wantManifest string
	}{
		{
			name: "installed", given: map[string]any{"trustDomain": "corp.example", "node": deadline}, image: "w:1",
			want: map[string]any{"image": "w:1", "trustDomain": "corp.example", "node": deadline}, wantManifest: "--trust-domain=corp.example",
		},
		{
			name: "another image, no values: they stay", image: "w:2",
			want: map[string]any{"image": "w:2", "trustDomain": "corp.example", "node": deadline}, wantManifest: "--cni-deadline=20s",
		},
		{
			name: "nothing at all", want: map[string]any{"image": "w:2", "trustDomain": "corp.example", "node": deadline},
		},
		{
			name: "values without the trust domain", given: map[string]any{"logLevel": "debug"}, image: "w:3",
			wantErr: "write trustDomain: corp.example into the values to keep it, or trustDomain: cluster.local to change it",
		},
		{
			name: "no value at all, on purpose", given: map[string]any{}, image: "w:3", wantErr: "trustDomain",
		},
		{
			name: "a null", given: map[string]any{"trustDomain": nil}, image: "w:3", wantErr: "trustDomain",
		},
		{
			name: "values with it: these alone", given: map[string]any{"trustDomain": "corp.example", "logLevel": "debug"}, image: "w:3",
			want: map[string]any{"image": "w:3", "trustDomain": "corp.example", "logLevel": "debug"}, wantManifest: "--cni-deadline=15s",
		},
		{
			name: "another one, by name", given: map[string]any{"trustDomain": "cluster.local"}, image: "w:3",
			want: map[string]any{"image": "w:3", "trustDomain": "cluster.local"}, wantManifest: "--trust-domain=cluster.local",
		},
		{
			name: "the default's name may be left out", given: map[string]any{"logLevel": "warn"}, image: "w:3",
			want: map[string]any{"image": "w:3", "logLevel": "warn"}, wantManifest: "--log-level=warn",
		},
		{
			name: "values without an image", given: map[string]any{"logLevel": "warn"}, wantErr: "image: Warren has no public image",
		},
	} {
		var before map[string]any
		if step.want == nil {
			before = r.config(t)
		}
		err := r.bring(t, step.given, step.image)
		if step.want == nil {
			if err == nil || !strings.Contains(err.Error(), step.wantErr) {
				t.Errorf("%s: got %v, want something about %q", step.name, err, step.wantErr)
			}
			step.want = before
		} else if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		was, err := installed(r.helm)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, was.Config); diff != "" {
			t.Errorf("%s: -want +got:\n%s", step.name, diff)
		}
		if !strings.Contains(was.Manifest, step.wantManifest) {
			t.Errorf("%s: %s is nowhere in what was applied", step.name, step.wantManifest)
		}
	}
}

// TestChangedDefaultOfTheTrustDomain: a newer chart may have another default than the release lives by.
func TestChangedDefaultOfTheTrustDomain(t *testing.T) {
	r := newReleases(t)
	if err := r.bring(t, nil, "w:1"); err != nil {
		t.Fatal(err)
	}
	newer := newReleases(t).chart
	newer.Values["trustDomain"] = "mesh.local"
	r.chart = newer
	err := r.bring(t, nil, "w:2")
	if err == nil || !strings.Contains(err.Error(), "the installed release has cluster.local") {
		t.Errorf("got %v", err)
	}
}

// TestValuesOfAFailedUpgrade are not those that stay.
func TestValuesOfAFailedUpgrade(t *testing.T) {
	r := newReleases(t)
	if err := r.bring(t, map[string]any{"logLevel": "debug"}, "w:1"); err != nil {
		t.Fatal(err)
	}
	if err := r.bring(t, map[string]any{"logLevel": "warn"}, "w:2"); err != nil {
		t.Fatal(err)
	}
	was, err := installed(r.helm)
	if err != nil {
		t.Fatal(err)
	}
	was.SetStatus(rcommon.StatusFailed, "as if the API server had refused something")
	if err := r.helm.Releases.Update(was); err != nil {
		t.Fatal(err)
	}
	good, err := r.helm.Releases.Get(Release, 1)
	if err != nil {
		t.Fatal(err)
	}
	good.(*release.Release).SetStatus(rcommon.StatusDeployed, "")
	if err := r.helm.Releases.Update(good); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"image": "w:1", "logLevel": "debug"}, r.config(t)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestFateOfValuesIsTold names them.
func TestFateOfValuesIsTold(t *testing.T) {
	was := &release.Release{Config: map[string]any{"image": "w:1", "trustDomain": "corp.example", "logLevel": "debug"}}
	for _, tt := range []struct {
		name  string
		given map[string]any
		was   *release.Release
		want  string
	}{
		{"no release", map[string]any{"logLevel": "debug"}, nil, ""},
		{"no values", nil, was, "stay: logLevel, trustDomain"},
		{"one of them", map[string]any{"trustDomain": "corp.example"}, was, "default again: logLevel"},
		{"both", map[string]any{"trustDomain": "corp.example", "logLevel": "warn"}, was, ""},
		{"no values over none", nil, &release.Release{Config: map[string]any{"image": "w:1"}}, ""},
	} {
		if got := fate(tt.given, tt.was); !strings.HasSuffix(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

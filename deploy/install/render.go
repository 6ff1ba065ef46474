// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"context"
	"fmt"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	release "helm.sh/helm/v4/pkg/release/v1"
)

// PlaceholderImage is what the manifests in the repository name.
const PlaceholderImage = "registry.example.com/warren:devel"

// renderVersion is the cluster manifests are rendered for; nothing in them depends on it.
var renderVersion = common.KubeVersion{Version: "v1.30.0", Major: "1", Minor: "30"}

// Render returns the chart as plain manifests, by file name: the namespace, the custom resource definitions, the rest.
// Values need an image. Hooks are no part of it: Uninstall does their work.
func Render(ctx context.Context, dir string, values map[string]any) (map[string][]byte, error) {
	s, err := findSource(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("render manifests: %w", err)
	}
	ch, err := loadChart(s)
	if err != nil {
		return nil, fmt.Errorf("render manifests: %w", err)
	}
	rendered, err := dryRun(ctx, ch, values)
	if err != nil {
		return nil, fmt.Errorf("render manifests: %w", err)
	}
	ns, err := namespaceManifest()
	if err != nil {
		return nil, fmt.Errorf("render manifests: %w", err)
	}
	var definitions bytes.Buffer
	for _, c := range ch.CRDObjects() {
		fmt.Fprintf(&definitions, "---\n%s", c.File.Data)
	}
	return map[string][]byte{
		"00-namespace.yaml": ns, "01-crds.yaml": definitions.Bytes(),
		"02-warren.yaml": []byte(rendered.Manifest),
	}, nil
}

// dryRun is the release that an installation would make.
func dryRun(ctx context.Context, ch *chart.Chart, values map[string]any) (*release.Release, error) {
	i := action.NewInstall(action.NewConfiguration())
	i.ReleaseName, i.Namespace = Release, Namespace
	i.DryRunStrategy = action.DryRunClient
	i.KubeVersion = &renderVersion
	out, err := i.RunWithContext(ctx, ch, values)
	if err != nil {
		return nil, err
	}
	return out.(*release.Release), nil
}

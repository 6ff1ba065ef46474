// SPDX-License-Identifier: Apache-2.0

package install

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	release "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage/driver"
)

// installed is the release whose values count: the one deployed, or the last when none ever was. It is nil when there is
// none. It is also what Helm takes for the release to upgrade.
func installed(c *action.Configuration) (*release.Release, error) {
	_, err := action.NewHistory(c).Run(Release)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Helm release %s: %w", Release, err)
	}
	found, err := c.Releases.Deployed(Release)
	if errors.Is(err, driver.ErrNoDeployedReleases) {
		found, err = c.Releases.Last(Release)
	}
	if err != nil {
		return nil, fmt.Errorf("read Helm release %s: %w", Release, err)
	}
	r, ok := found.(*release.Release)
	if !ok {
		return nil, fmt.Errorf("read Helm release %s: it is a %T", Release, found)
	}
	return r, nil
}

// overlay is what goes over the chart's defaults: the values given, and nothing else; when none are given, those of the
// installed release.
func overlay(given map[string]any, image string, was *release.Release) map[string]any {
	values := map[string]any{}
	switch {
	case given != nil:
		maps.Copy(values, given)
	case was != nil:
		maps.Copy(values, was.Config)
	}
	if image != "" {
		values["image"] = image
	}
	return values
}

const trustDomainValue = "trustDomain"

// checkTrustDomain refuses values that change the trust domain without naming it: every identity would become another one,
// of every certificate and in every policy, because a line is missing in a file.
func checkTrustDomain(was *release.Release, ch *chart.Chart, values map[string]any) error {
	if was == nil || values[trustDomainValue] != nil {
		return nil
	}
	all, err := util.CoalesceValues(was.Chart, was.Config)
	if err != nil {
		return fmt.Errorf("read values of Helm release %s: %w", Release, err)
	}
	before, after := all[trustDomainValue], ch.Values[trustDomainValue]
	if before == after {
		return nil
	}
	return fmt.Errorf("%[1]s: the installed release has %[2]v, and the values don't name it: it would become the chart's default, %[3]v, "+
		"and with it every identity another one (write %[1]s: %[2]v into the values to keep it, or %[1]s: %[3]v to change it); nothing was changed",
		trustDomainValue, before, after)
}

// fate says what becomes of the installed release's values, the image aside; empty: nothing that is worth a word.
func fate(given map[string]any, was *release.Release) string {
	if was == nil {
		return ""
	}
	var names []string
	for _, n := range slices.Sorted(maps.Keys(was.Config)) {
		if _, again := given[n]; !again && n != "image" {
			names = append(names, n)
		}
	}
	switch {
	case len(names) == 0:
		return ""
	case given == nil:
		return "values of the installed release stay: " + strings.Join(names, ", ")
	}
	return "values of the installed release that are the chart's default again: " + strings.Join(names, ", ")
}

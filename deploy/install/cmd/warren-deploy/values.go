// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
)

// valueFiles are YAML files over the chart's values, later ones over earlier ones, as Helm has it.
type valueFiles []string

func valuesFlag(fs *flag.FlagSet) *valueFiles {
	var v valueFiles
	fs.Func("values", "YAML `file` of values over the chart's; repeatable. Of an upgrade without, those of the installed release stay", func(path string) error {
		v = append(v, path)
		return nil
	})
	return &v
}

// read returns nil when no file is named, which is something else than a file without values.
func (v *valueFiles) read() (map[string]any, error) {
	var values map[string]any
	for _, path := range *v {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read values: %w", err)
		}
		more, err := loader.LoadValues(bytes.NewReader(b))
		if err != nil {
			return nil, fmt.Errorf("read values %s: %w", path, err)
		}
		values = loader.MergeMaps(values, more)
	}
	return values, nil
}

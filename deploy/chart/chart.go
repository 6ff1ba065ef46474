// SPDX-License-Identifier: Apache-2.0

// Package chart holds Warren's Helm chart, so that programs that install it need no file beside them.
package chart

import "embed"

// Files has the chart below the directory Root, as it lies beside this file.
//
//go:embed all:warren
var Files embed.FS

// Root is the chart's directory in Files, and the chart's name.
const Root = "warren"

// SPDX-License-Identifier: Apache-2.0

// Command warren-cni is Warren's chained CNI plugin. See package agent/cni/plugin.
package main

import (
	"os"
	"runtime/debug"

	"github.com/warren-mesh/warren/agent/cni/plugin"
)

func main() {
	version := "devel"
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		version = b.Main.Version
	}
	os.Exit(plugin.Main("warren-cni " + version + " (service mesh capture, chained)"))
}

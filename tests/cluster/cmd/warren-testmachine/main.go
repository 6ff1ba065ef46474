// SPDX-License-Identifier: Apache-2.0

// Command warren-testmachine is pid 1 of a test cluster's machines; package machine tells what it does.
package main

import (
	"os"

	"github.com/warren-mesh/warren/tests/cluster/machine"
)

func main() { os.Exit(machine.Main(os.Args[1:])) }

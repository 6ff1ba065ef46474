// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"os"
	"runtime"
	"testing"
)

// roleVariable tells a re-executed binary which part it plays. Unset: none.
const roleVariable = "WARREN_NETNS_ROLE"

const (
	roleInside = "inside" // the pause process of a sandbox
	roleDrop   = "drop"   // gives up privileges, then executes something else
)

// hooked says that Init ran, so that a re-executed binary plays its role instead of running the tests once more.
var hooked bool

// The main goroutine stays on the main thread. Threads that joined a pod's namespaces are left to die, and the main
// thread is the one that Go can't end: it would keep the namespaces alive.
func init() { runtime.LockOSThread() }

// Init must be the first call in main of every binary that makes a mesh: the pause processes of pods and the
// privilege-dropping step are the same binary, executed again. In those it does not return.
func Init() {
	hooked = true
	switch role := os.Getenv(roleVariable); role {
	case "":
		return
	case roleInside:
		os.Exit(inside())
	case roleDrop:
		err := drop()
		fmt.Fprintln(os.Stderr, err)
		os.Exit(126)
	default:
		fmt.Fprintf(os.Stderr, "%s: unknown role %q\n", os.Args[0], role)
		os.Exit(2)
	}
}

// Main is the whole of a package's TestMain: it plays the binary's role, or removes what crashed earlier runs left
// behind and runs the tests.
func Main(m *testing.M) {
	Init()
	if os.Geteuid() == 0 {
		for _, s := range Sweep() {
			fmt.Fprintln(os.Stderr, "removed from an earlier run:", s)
		}
	}
	os.Exit(m.Run())
}

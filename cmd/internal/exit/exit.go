// SPDX-License-Identifier: Apache-2.0

// Package exit ends a part of the mesh with a code that its supervisor understands.
package exit

import (
	"errors"
	"flag"
	"fmt"
	"io"
)

// Usage is the code of a process that was asked for help: starting it again can't be of use. It is EX_USAGE of sysexits.h;
// Go's own 2 is a panic's code, too.
const Usage = 64

// Code is what to exit with after err: 0 for nil, Usage for a request for help (flag.ErrHelp), and 1 for any other, which it
// writes to w as "NAME: error".
func Code(w io.Writer, name string, err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return Usage
	}
	fmt.Fprintf(w, "%s: %v\n", name, err)
	return 1
}

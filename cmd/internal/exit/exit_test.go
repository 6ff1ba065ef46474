// SPDX-License-Identifier: Apache-2.0

package exit

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"
)

func TestCode(t *testing.T) {
	for _, tt := range []struct {
		name   string
		err    error
		code   int
		prints string
	}{
		{"no error", nil, 0, ""},
		{"help", fmt.Errorf("parse: %w", flag.ErrHelp), 64, ""},
		{"an error", errors.New("as asked"), 1, "warren-x: as asked\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			if code := Code(&out, "warren-x", tt.err); code != tt.code || out.String() != tt.prints {
				t.Errorf("got %d and %q, want %d and %q", code, out.String(), tt.code, tt.prints)
			}
		})
	}
}

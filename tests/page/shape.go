// SPDX-License-Identifier: Apache-2.0

package page

import (
	"regexp"
	"slices"
	"strings"
)

var (
	number  = regexp.MustCompile(`[0-9a-f:.]*[0-9][0-9a-f:.]*`)
	numbers = regexp.MustCompile(`#(?:[-+T]*#)*Z?`)
)

// words are a text's, with every number, address, time and fingerprint made one sign: these differ from run to run.
func words(text string) []string {
	w := strings.Fields(text)
	for i := range w {
		w[i] = numbers.ReplaceAllString(number.ReplaceAllString(w[i], "#"), "#")
	}
	return w
}

// missing is the first word that a page shows and the output lacks, in the page's order; "" for none. The output may have
// more than is shown, and other line breaks. What follows "…" in a word is left open.
func missing(shown, output string) string {
	have, before := words(output), "the beginning"
	original := strings.Fields(shown)
	for i, w := range words(shown) {
		if w == "…" {
			continue
		}
		begin, _, open := strings.Cut(w, "…")
		at := slices.IndexFunc(have, func(h string) bool { return h == w || open && strings.HasPrefix(h, begin) })
		if at < 0 {
			return original[i] + " after " + before
		}
		have, before = have[at+1:], original[i]
	}
	return ""
}

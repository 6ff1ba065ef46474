// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/warren-mesh/warren/mesh/revocation"
)

// crl is what is to be published of the operator's revocation lists.
type crl struct {
	lists   *revocation.Lists
	pem     []byte
	known   bool // false: there are some, and none of them could be read yet
	kept    bool // of an earlier look: this one could not read them
	problem error
}

// readCRL reads the lists. Whatever is wrong with them ends nothing: the last good ones stay, and the rest of the
// authority goes on. m's certificates check the signatures.
func readCRL(f Files, m, last *material, now time.Time) crl {
	var before crl
	if last != nil {
		before = last.crl
	}
	complain := func(err error) crl {
		before.kept = true
		before.problem = fmt.Errorf("%s: %w (the last good one stays in force)", f.Path(CRLFile), err)
		return before
	}
	data, err := f.Read(CRLFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return crl{known: true}
	case err != nil:
		return complain(err)
	}
	next, why := revocation.Next(before.lists, data, now)
	if why != nil && (next == nil || next == before.lists) {
		return complain(why)
	}
	out := crl{lists: next, pem: next.PEM(), known: true}
	if len(out.pem) > maxTrust {
		return complain(fmt.Errorf("%d bytes (at most %d: drop the entries of expired certificates)", len(out.pem), maxTrust))
	}
	strangers, err := next.Strangers(union(m.path, m.roots))
	if err != nil {
		return complain(err)
	}
	if len(strangers) > 0 {
		why = errors.Join(why, fmt.Errorf("signed by %s, of whom there is no certificate here: it counts where a peer shows one", strings.Join(strangers, "; ")))
	}
	if why != nil {
		out.problem = fmt.Errorf("%s: %w", f.Path(CRLFile), why)
	}
	return out
}

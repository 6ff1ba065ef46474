// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// State of a certificate, for dumps.
type State string

// States.
const (
	StateInitializing State = "Initializing" // never fetched yet
	StateAvailable    State = "Available"    // valid
	StateUnavailable  State = "Unavailable"  // the last fetch failed or the certificate expired, and none is valid
)

// Info is what may be shown of a certificate: never its key.
type Info struct {
	Identity  mesh.Identity `json:"identity"`
	State     State         `json:"state"`
	Serial    string        `json:"serialNumber,omitempty"`
	NotBefore time.Time     `json:"validFrom,omitzero"`
	NotAfter  time.Time     `json:"expirationTime,omitzero"`
	// Root is the beginning of the SHA-256 fingerprint of the root that verified it.
	Root string `json:"root,omitempty"`
	// Renew is when the next fetch is due.
	Renew time.Time `json:"renewTime,omitzero"`
	// Error of the last fetch; a valid certificate may have one too.
	Error string `json:"error,omitempty"`
}

// Certificates describes every wanted identity's certificate, in no particular order.
func (s *Store) Certificates() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	out := make([]Info, 0, len(s.entries))
	for _, e := range s.entries {
		i := Info{Identity: e.id, State: StateInitializing, Renew: e.next}
		if e.err != nil {
			i.State, i.Error = StateUnavailable, e.err.Error()
		}
		if c := e.current.Load(); c != nil {
			i.State, i.Serial, i.NotBefore, i.NotAfter = StateUnavailable, serial(c.leaf), c.leaf.NotBefore, c.leaf.NotAfter
			i.Root = fingerprint(c.root)
			if c.valid(now) {
				i.State = StateAvailable
			}
		}
		out = append(out, i)
	}
	return out
}

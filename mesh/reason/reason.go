// SPDX-License-Identifier: Apache-2.0

// Package reason holds the closed set of words that say why a connection was dropped, refused, passed by
// or carried. The same words stand in the kernel programs, metrics, access log, explain and docs; the one
// table behind them is bpf/reasons.yaml.
package reason

import "fmt"

// Reason is one word of the table. The zero value is None, the ordinary case.
type Reason uint8

// Kind says what a reason means for the connection.
type Kind uint8

const (
	// Carry: the mesh carried the connection.
	Carry Kind = iota
	// Pass: the connection went by the mesh, deliberately.
	Pass
	// Drop: the connection did not happen, or was ended.
	Drop
)

type entry struct {
	name string
	kind Kind
	text string
}

// String returns the word, for instance POLICY_DENY.
func (r Reason) String() string {
	if int(r) >= Max {
		return fmt.Sprintf("REASON_%d", uint8(r))
	}
	return table[r].name
}

// Kind tells what the reason means for the connection; unknown numbers are drops.
func (r Reason) Kind() Kind {
	if int(r) >= Max {
		return Drop
	}
	return table[r].kind
}

// Text is the sentence an operator reads beside the word.
func (r Reason) Text() string {
	if int(r) >= Max {
		return "a reason this version does not know"
	}
	return table[r].text
}

// Parse returns the reason of a word, and false for a word that is not in the table.
func Parse(word string) (Reason, bool) {
	for i, e := range table {
		if e.name == word {
			return Reason(i), true
		}
	}
	return None, false
}

// MarshalText writes the word.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a word; it fails on a word that is not in the table.
func (r *Reason) UnmarshalText(b []byte) error {
	v, ok := Parse(string(b))
	if !ok {
		return fmt.Errorf("parse reason: unknown word %q", b)
	}
	*r = v
	return nil
}

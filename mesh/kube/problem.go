// SPDX-License-Identifier: Apache-2.0

package kube

import "k8s.io/apimachinery/pkg/util/validation/field"

// Problem says what is wrong with an object, and where. Unless it is Partial, the object was refused and
// the last good one stays in force until it is corrected or deleted.
type Problem struct {
	// Object as Key.String gives it; "" when a file cannot be read far enough to tell.
	Object string
	// Source is "file:line", or "" when the object came from the API server.
	Source string
	// Field is the path of the wrong field, for instance "spec.podIPs[0].ip"; "" when the whole is wrong.
	Field string
	Err   error
	// Partial: only this field is not applied, the rest of the object is.
	Partial bool
	// Node is where a refused Pod is scheduled; "" when that can't be told, and for other kinds.
	Node string
	// InForce says what holds instead of the object, where that is not the last good one; see Translator.StandIns.
	InForce string
}

// Error makes one line of it: source, object, cause.
func (p Problem) Error() string {
	s := p.Err.Error()
	if p.Object != "" {
		s = p.Object + ": " + s
	}
	if p.Source != "" {
		s = p.Source + ": " + s
	}
	return s
}

// Unwrap returns the cause.
func (p Problem) Unwrap() error { return p.Err }

// problems splits a converter's error list into Problems, one per field.
func problems(k Key, source string, errs field.ErrorList, partial bool) []Problem {
	var out []Problem
	for _, e := range errs {
		out = append(out, Problem{Object: k.String(), Source: source, Field: e.Field, Err: e, Partial: partial})
	}
	return out
}

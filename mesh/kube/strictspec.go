// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"google.golang.org/protobuf/reflect/protoreflect"
	securityv1beta1 "istio.io/api/security/v1beta1"
	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// FieldError is an error about one field, by its path.
type FieldError struct{ Field, Message string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Message }

// StrictSpec compares the spec of an object's JSON with what its type knows; the errors are unknown fields and
// values, as *FieldError. Istio's types pass over what they don't know, and a policy without the word that
// narrowed it is another policy. Of types that are not Istio's it says nothing.
func StrictSpec(j []byte, o runtime.Object) []error {
	md := specOf(o)
	if md == nil {
		return nil
	}
	var s struct {
		Spec json.RawMessage `json:"spec"`
	}
	if err := json.Unmarshal(j, &s); err != nil {
		return []error{err}
	}
	return strictProto("spec", s.Spec, md)
}

// specOf describes the spec of Istio's types; nil for others.
func specOf(o runtime.Object) protoreflect.MessageDescriptor {
	switch o.(type) {
	case *istiosecurity.PeerAuthentication:
		return (&securityv1beta1.PeerAuthentication{}).ProtoReflect().Descriptor()
	case *istiosecurity.AuthorizationPolicy:
		return (&securityv1beta1.AuthorizationPolicy{}).ProtoReflect().Descriptor()
	}
	return nil
}

// mayBeEmpty are the lists whose emptiness is plain. Elsewhere it is not: the type's reader takes a list that
// came out empty for one that is not there, and a rule would match everything.
var mayBeEmpty = map[protoreflect.FullName]bool{
	"istio.security.v1beta1.AuthorizationPolicy.rules":      true,
	"istio.security.v1beta1.AuthorizationPolicy.targetRefs": true,
}

// strictProto compares JSON with a message's descriptor: unknown fields and unknown enum words, by path.
// Values of the wrong type are left to the reader itself.
func strictProto(path string, j json.RawMessage, md protoreflect.MessageDescriptor) []error {
	var fields map[string]json.RawMessage
	if len(j) == 0 || json.Unmarshal(j, &fields) != nil {
		return nil
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		at := path + "." + name
		fd := md.Fields().ByJSONName(name)
		if fd == nil {
			fd = md.Fields().ByTextName(name)
		}
		if fd == nil {
			errs = append(errs, &FieldError{at, fmt.Sprintf("unknown field %q", name)})
			continue
		}
		errs = append(errs, strictField(at, fields[name], fd)...)
	}
	return errs
}

func strictField(path string, j json.RawMessage, fd protoreflect.FieldDescriptor) (errs []error) {
	switch {
	case fd.IsMap():
		var m map[string]json.RawMessage
		if json.Unmarshal(j, &m) != nil {
			return nil
		}
		for _, k := range slices.Sorted(maps.Keys(m)) {
			errs = append(errs, strictValue(path+"["+k+"]", m[k], fd.MapValue())...)
		}
	case fd.IsList():
		var l []json.RawMessage
		if json.Unmarshal(j, &l) != nil {
			return nil
		}
		if l != nil && len(l) == 0 && !mayBeEmpty[fd.FullName()] {
			errs = append(errs, &FieldError{path, "empty: give it values, or leave it out, which means any"})
		}
		for i, v := range l {
			errs = append(errs, strictValue(path+"["+strconv.Itoa(i)+"]", v, fd)...)
		}
	default:
		return strictValue(path, j, fd)
	}
	return errs
}

func strictValue(path string, j json.RawMessage, fd protoreflect.FieldDescriptor) []error {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		return strictProto(path, j, fd.Message())
	case protoreflect.EnumKind:
		var word string
		if json.Unmarshal(j, &word) != nil || fd.Enum().Values().ByName(protoreflect.Name(word)) != nil {
			return nil
		}
		var want []string
		for i := range fd.Enum().Values().Len() {
			want = append(want, string(fd.Enum().Values().Get(i).Name()))
		}
		return []error{&FieldError{path, fmt.Sprintf("unsupported value %q: want one of %q", word, want)}}
	}
	return nil
}

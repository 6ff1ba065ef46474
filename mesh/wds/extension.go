// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/warren-mesh/warren/mesh/wds/workloadpb"
)

// typePrefix begins the type URL of every message.
const typePrefix = "type.googleapis.com/"

// deterministic so that one value always has one encoding, and with it one version.
var deterministic = proto.MarshalOptions{Deterministic: true}

// encode wraps m. Its only error would be text that is not UTF-8; such a message is not sent.
func encode(m proto.Message) (*anypb.Any, error) {
	a := &anypb.Any{}
	if err := anypb.MarshalFrom(a, m, deterministic); err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return a, nil
}

// pack puts m into a list of extensions. Text that is not UTF-8 leaves it empty: the outer message, which
// holds text of the same origin, fails to encode as well and says so.
func pack(m proto.Message) []*workloadpb.Extension {
	a, err := encode(m)
	if err != nil {
		return nil
	}
	return []*workloadpb.Extension{{Name: extensionName, Config: a}}
}

// extension is what the two packages' Extension messages have in common.
type extension interface {
	GetConfig() *anypb.Any
}

// unpack reads the extension of into's type and reports whether there is one.
func unpack[E extension](list []E, into proto.Message) (bool, error) {
	want := typePrefix + string(into.ProtoReflect().Descriptor().FullName())
	for _, e := range list {
		if e.GetConfig().GetTypeUrl() != want {
			continue
		}
		if err := proto.Unmarshal(e.GetConfig().GetValue(), into); err != nil {
			return false, fmt.Errorf("decode extension %s: %w", want, err)
		}
		return true, nil
	}
	return false, nil
}

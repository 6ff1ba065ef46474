// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/warren-mesh/warren/mesh/kube/apiserver"
)

const mediaProtobuf = "application/vnd.kubernetes.protobuf"

// form is how a client wants to be answered.
type form struct {
	protobuf, metadata bool
	gvk                schema.GroupVersionKind
}

func formOf(r *http.Request, gvk schema.GroupVersionKind) form {
	accept := r.Header.Get("Accept")
	f := form{metadata: strings.Contains(accept, "as=PartialObjectMetadata"), gvk: gvk}
	_, err := apiserver.Scheme.New(gvk)
	f.protobuf = strings.Contains(accept, mediaProtobuf) && (err == nil || f.metadata)
	return f
}

func (f form) mediaType() string {
	if f.protobuf {
		return mediaProtobuf
	}
	return "application/json"
}

// object gives an object the type it has on the wire.
func (f form) object(o map[string]any) (runtime.Object, error) {
	var typed runtime.Object
	gvk := f.gvk
	if f.metadata {
		gvk = metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata")
		typed = &metav1.PartialObjectMetadata{}
		o = map[string]any{"metadata": o["metadata"]}
	} else {
		var err error
		if typed, err = apiserver.Scheme.New(gvk); err != nil {
			return nil, err
		}
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o, typed); err != nil {
		return nil, err
	}
	typed.GetObjectKind().SetGroupVersionKind(gvk)
	return typed, nil
}

// encode writes one object.
func (f form) encode(o map[string]any) ([]byte, error) {
	if !f.protobuf {
		out := map[string]any{}
		for k, v := range o {
			if !f.metadata || k == "metadata" {
				out[k] = v
			}
		}
		out["apiVersion"], out["kind"] = f.gvk.GroupVersion().String(), f.gvk.Kind
		if f.metadata {
			out["apiVersion"], out["kind"] = "meta.k8s.io/v1", "PartialObjectMetadata"
		}
		return json.Marshal(out)
	}
	typed, err := f.object(o)
	if err != nil {
		return nil, err
	}
	return runtime.Encode(protobuf.NewSerializer(apiserver.Scheme, apiserver.Scheme), typed)
}

// encodeList writes a list as JSON, which every client takes.
func (f form) encodeList(rv string, items []map[string]any) ([]byte, error) {
	kind, version := f.gvk.Kind+"List", f.gvk.GroupVersion().String()
	if f.metadata {
		kind, version = "PartialObjectMetadataList", "meta.k8s.io/v1"
	}
	list := []json.RawMessage{}
	for _, o := range items {
		one := f
		one.protobuf = false
		b, err := one.encode(o)
		if err != nil {
			return nil, err
		}
		list = append(list, b)
	}
	return json.Marshal(map[string]any{"apiVersion": version, "kind": kind, "metadata": map[string]any{"resourceVersion": rv}, "items": list})
}

// stream writes watch events.
type stream struct {
	form
	w     io.Writer
	flush func()
}

func (s stream) send(verb string, o map[string]any) error {
	raw, err := s.encode(o)
	if err != nil {
		return err
	}
	defer s.flush()
	if !s.protobuf {
		return json.NewEncoder(s.w).Encode(map[string]any{"type": verb, "object": json.RawMessage(raw)})
	}
	frame := protobuf.LengthDelimitedFramer.NewFrameWriter(s.w)
	return protobuf.NewRawSerializer(apiserver.Scheme, apiserver.Scheme).
		Encode(&metav1.WatchEvent{Type: verb, Object: runtime.RawExtension{Raw: raw}}, frame)
}

// readBody reads an object a client sends.
func readBody(r *http.Request) (map[string]any, error) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), mediaProtobuf) {
		o, _, err := apiserver.Codecs.UniversalDeserializer().Decode(b, nil, nil)
		if err != nil {
			return nil, err
		}
		return runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	}
	var o map[string]any
	return o, json.Unmarshal(b, &o)
}

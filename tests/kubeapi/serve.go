// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// target is what a path names.
type target struct {
	resource, namespace, name, subresource string
	gv                                     schema.GroupVersion
}

func parse(path string) (target, bool) {
	p := strings.Split(strings.Trim(path, "/"), "/")
	var t target
	switch {
	case len(p) >= 3 && p[0] == "api":
		t.gv, p = schema.GroupVersion{Version: p[1]}, p[2:]
	case len(p) >= 4 && p[0] == "apis":
		t.gv, p = schema.GroupVersion{Group: p[1], Version: p[2]}, p[3:]
	default:
		return t, false
	}
	if p[0] == "namespaces" && len(p) > 2 {
		t.namespace, p = p[1], p[2:]
	}
	t.resource = t.gv.String() + "/" + p[0]
	if len(p) > 1 {
		t.name = p[1]
	}
	if len(p) > 2 {
		t.subresource = p[2]
	}
	return t, true
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	h := s.handlers[r.URL.Path]
	if i := strings.LastIndexByte(r.URL.Path, '/'); h == nil && i >= 0 {
		h = s.handlers[r.URL.Path[i+1:]]
	}
	s.mu.Unlock()
	if h != nil {
		h(w, r)
		return
	}
	t, ok := parse(r.URL.Path)
	if !ok {
		fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
		return
	}
	s.mu.Lock()
	table := s.tables[t.resource]
	verb := strings.ToLower(r.Method)
	watching := r.URL.Query().Get("watch") == "true" || r.URL.Query().Get("watch") == "1"
	if watching {
		verb = "watch"
	}
	s.requests[verb+" "+t.resource]++
	s.mu.Unlock()
	if table == nil {
		fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
		return
	}
	f := formOf(r, t.gv.WithKind(table.kind))
	switch {
	case watching:
		s.watch(w, r, table, t, f)
	case r.Method == http.MethodGet && t.name == "":
		s.mu.Lock()
		b, err := f.encodeList(strconv.Itoa(s.rv), table.list(t.namespace))
		s.mu.Unlock()
		reply(w, "application/json", b, err)
	default:
		s.one(w, r, table, t, f)
	}
}

// one answers a request for one object.
func (s *Server) one(w http.ResponseWriter, r *http.Request, t *table, at target, f form) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, exists := t.objects[join(at.namespace, at.name)]
	if r.Method != http.MethodPost && !exists {
		fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, at.resource+" "+at.name+" not found")
		return
	}
	next := old
	switch r.Method {
	case http.MethodPost, http.MethodPut:
		o, err := readBody(r)
		if err != nil {
			fail(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
			return
		}
		u := &unstructured.Unstructured{Object: o}
		if u.GetNamespace() == "" && at.namespace != "" {
			u.SetNamespace(at.namespace)
		}
		_, taken := t.objects[join(u.GetNamespace(), u.GetName())]
		if r.Method == http.MethodPost && taken {
			fail(w, http.StatusConflict, metav1.StatusReasonAlreadyExists, "already exists")
			return
		}
		if rv := u.GetResourceVersion(); exists && rv != "" && rv != (&unstructured.Unstructured{Object: old}).GetResourceVersion() {
			fail(w, http.StatusConflict, metav1.StatusReasonConflict, "the object has been modified")
			return
		}
		next = s.store(t, o)
	case http.MethodPatch:
		var patch map[string]any
		if err := json.NewDecoder(r.Body).Decode(&patch); err != nil {
			fail(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
			return
		}
		uid, named, _ := unstructured.NestedString(patch, "metadata", "uid")
		if named && uid != string((&unstructured.Unstructured{Object: old}).GetUID()) {
			fail(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "uid is immutable", "metadata.uid")
			return
		}
		next = s.store(t, merge((&unstructured.Unstructured{Object: old}).DeepCopy().Object, patch))
	case http.MethodDelete:
		s.remove(t, join(at.namespace, at.name))
	}
	b, err := f.encode(next)
	reply(w, f.mediaType(), b, err)
}

// merge applies a JSON merge patch (RFC 7396).
func merge(o, patch map[string]any) map[string]any {
	for k, v := range patch {
		m, isMap := v.(map[string]any)
		switch old, wasMap := o[k].(map[string]any); {
		case v == nil:
			delete(o, k)
		case isMap && wasMap:
			o[k] = merge(old, m)
		case isMap:
			o[k] = merge(map[string]any{}, m)
		default:
			o[k] = v
		}
	}
	return o
}

// watch sends changes after a version until the client goes; first, where asked to, all there is.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, t *table, at target, f form) {
	q := r.URL.Query()
	since, _ := strconv.Atoi(q.Get("resourceVersion"))
	initial := q.Get("sendInitialEvents") == "true"
	s.mu.Lock()
	noStream, oldest := s.noStream, s.oldest
	s.mu.Unlock()
	switch {
	case initial && noStream:
		fail(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "sendInitialEvents is forbidden", "sendInitialEvents")
		return
	case !initial && since < oldest:
		fail(w, http.StatusGone, metav1.StatusReasonExpired, "too old resource version")
		return
	}
	w.Header().Set("Content-Type", f.mediaType()+";stream=watch")
	out := stream{form: f, w: w, flush: w.(http.Flusher).Flush}
	out.flush()
	if initial {
		s.mu.Lock()
		all, rv := t.list(at.namespace), s.rv
		s.mu.Unlock()
		for _, o := range all {
			if out.send("ADDED", o) != nil {
				return
			}
		}
		since = rv
		if out.send("BOOKMARK", bookmark(rv, map[string]any{metav1.InitialEventsAnnotationKey: "true"})) != nil {
			return
		}
	}
	for {
		s.mu.Lock()
		changed, rv := s.changed, s.rv
		var news []change
		for _, c := range t.history {
			if c.rv > since {
				news = append(news, c)
			}
		}
		s.mu.Unlock()
		for _, c := range news {
			if out.send(c.verb, c.obj) != nil {
				return
			}
		}
		since = rv
		select {
		case <-changed:
		case <-time.After(time.Second):
			if out.send("BOOKMARK", bookmark(rv, nil)) != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

func bookmark(rv int, annotations map[string]any) map[string]any {
	return map[string]any{"metadata": map[string]any{"resourceVersion": strconv.Itoa(rv), "annotations": annotations}}
}

func reply(w http.ResponseWriter, mediaType string, b []byte, err error) {
	if err != nil {
		fail(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, err.Error())
		return
	}
	w.Header().Set("Content-Type", mediaType)
	_, _ = w.Write(b)
}

// fail answers with a Status.
func fail(w http.ResponseWriter, code int, reason metav1.StatusReason, message string, fields ...string) {
	st := metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: message, Details: &metav1.StatusDetails{},
	}
	for _, f := range fields {
		st.Details.Causes = append(st.Details.Causes, metav1.StatusCause{Field: f})
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	b, err := json.Marshal(st)
	if err == nil {
		_, _ = w.Write(b)
	}
}

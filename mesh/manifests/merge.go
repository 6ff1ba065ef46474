// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
)

// merge makes one set of objects of many files and tells a translator the differences.
type merge struct {
	applied map[kube.Key]applied
	good    map[kube.Key]runtime.Object // what the translator accepted last
	derived map[kube.Key]*discoveryv1.EndpointSlice
}

// applied is what the translator was last given under a key.
type applied struct {
	object   *object
	captured string
}

func newMerge() merge {
	return merge{
		applied: map[kube.Key]applied{},
		good:    map[kube.Key]runtime.Object{},
		derived: map[kube.Key]*discoveryv1.EndpointSlice{},
	}
}

// step tells the translator what changed and returns the sum of its answers, all objects, refused ones among them, and
// all problems that stand.
func (m *merge) step(t *kube.Translator, files map[string]*file, captures map[string]capture, first bool) (kube.Result, map[kube.Key]*object, []kube.Problem) {
	wanted, problems := choose(files)
	events := m.events(wanted, capturesByPod(captures))
	r := t.Apply(events)
	if len(events) > 0 {
		m.note(t, events)
		r.Changes = append(r.Changes, t.Apply(m.derive()).Changes...)
	}
	if first {
		r = t.Synced()
	}
	for _, p := range t.Problems() {
		if o := wanted[keyNamed(wanted, p.Object)]; o != nil {
			p.Source = o.doc.source(p.Field)
		}
		problems = append(problems, p)
	}
	t.StandIns(problems)
	slices.SortStableFunc(problems, func(a, b kube.Problem) int {
		return strings.Compare(a.Object+"\x00"+a.Source+"\x00"+a.Field, b.Object+"\x00"+b.Source+"\x00"+b.Field)
	})
	return r, wanted, problems
}

func keyNamed(wanted map[kube.Key]*object, name string) kube.Key {
	for k := range wanted {
		if k.String() == name {
			return k
		}
	}
	return kube.Key{}
}

// choose picks one object per key. Where several claim a name, the first by path and line has it: the same
// one on every node and after every restart.
func choose(files map[string]*file) (map[kube.Key]*object, []kube.Problem) {
	wanted := map[kube.Key]*object{}
	var problems []kube.Problem
	for _, path := range slices.Sorted(maps.Keys(files)) {
		f := files[path]
		if f.problem != nil {
			problems = append(problems, *f.problem)
		}
		for _, o := range f.objects {
			problems = append(problems, o.problems...)
			if o.key == (kube.Key{}) {
				continue
			}
			if has := wanted[o.key]; has != nil {
				problems = append(problems, kube.Problem{
					Object: o.key.String(), Source: o.doc.source(""), Field: "metadata.name",
					Err: fmt.Errorf("metadata.name: there already is one in %s, which stays", has.doc.source("")),
				})
				continue
			}
			wanted[o.key] = o
		}
	}
	return wanted, problems
}

// events are the differences between what is wanted and what was applied. Of an object that is refused the last good
// one stays; of a policy the translator is told what can be read.
func (m *merge) events(wanted map[kube.Key]*object, captures map[mesh.Name]capture) []kube.Event {
	var events []kube.Event
	for k, was := range m.applied {
		if wanted[k] == nil {
			events = append(events, kube.Event{Object: cmp.Or(was.object.obj, was.object.remnant), Deleted: true})
			delete(m.applied, k)
			delete(m.good, k)
		}
	}
	for k, o := range wanted {
		if o.obj == nil {
			was, ok := m.applied[k]
			switch {
			case ok && k.Kind == "Pod":
				o = was.object // its capture status goes on
			case o.remnant == nil || was.object == o:
				continue
			default:
				m.applied[k] = applied{object: o}
				events = append(events, kube.Event{Object: o.remnant, Refused: true, Source: o.doc.source("")})
				continue
			}
		}
		now := applied{object: o}
		obj := o.obj
		if pod, ok := obj.(*corev1.Pod); ok {
			now.captured = captures[mesh.Name{Namespace: k.Namespace, Name: k.Name}].of(pod)
			obj = withCaptured(pod, now.captured)
		}
		if m.applied[k] == now {
			continue
		}
		m.applied[k] = now
		events = append(events, kube.Event{Object: obj, Source: o.doc.source("")})
	}
	return events
}

// withCaptured gives the pod the annotation its own node published. One that stands in the manifest itself
// is a copy from elsewhere and does not count.
func withCaptured(p *corev1.Pod, value string) *corev1.Pod {
	if p.Annotations[kube.KeyCaptured] == value {
		return p
	}
	c := *p
	c.Annotations = maps.Clone(p.Annotations)
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	if delete(c.Annotations, kube.KeyCaptured); value != "" {
		c.Annotations[kube.KeyCaptured] = value
	}
	return &c
}

// note keeps what the translator accepted.
func (m *merge) note(t *kube.Translator, events []kube.Event) {
	refused := map[string]bool{}
	for _, p := range t.Problems() {
		refused[p.Object] = refused[p.Object] || !p.Partial
	}
	for _, e := range events {
		k, err := kube.KeyOf(e.Object)
		if err == nil && !e.Deleted && !e.Refused && !refused[k.String()] {
			m.good[k] = e.Object
		}
	}
}

// derive computes the slices of services that have none and returns the differences.
func (m *merge) derive() []kube.Event {
	now := derivedSlices(m.good)
	var events []kube.Event
	for k, s := range m.derived {
		if now[k] == nil {
			events = append(events, kube.Event{Object: s, Deleted: true})
		}
	}
	for k, s := range now {
		if !reflect.DeepEqual(m.derived[k], s) {
			events = append(events, kube.Event{Object: s})
		}
	}
	m.derived = now
	return events
}

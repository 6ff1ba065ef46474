// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"container/list"
	"crypto/sha256"
	"encoding/base64"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
)

// entry is one resource of a feed, encoded once for all clients.
type entry struct {
	res  *discovery.Resource // its Resource is nil once the object is gone
	src  any                 // the mesh value it was encoded from; told apart by pointer
	rank int                 // order within one response, lower first
	seq  uint64              // when it last changed
	at   *list.Element
	seen uint64 // the snapshot it was last found in
}

func (e *entry) gone() bool { return e.res.Resource == nil }

// feed is the resources of one type in the order of their last change. A client is served by walking back
// to what it has seen, so that any number of changes to one object reach a slow client as one, and serving
// costs what changed. Guarded by hub.mu.
type feed struct {
	order *list.List // of *entry, seq ascending
}

func newFeed() *feed { return &feed{order: list.New()} }

// since returns the entries changed after seq, oldest first, gone ones included.
func (f *feed) since(seq uint64) []*entry {
	var out []*entry
	for el := f.order.Back(); el != nil; el = el.Prev() {
		e := el.Value.(*entry)
		if e.seq <= seq {
			break
		}
		out = append(out, e)
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// table is the part of a feed that comes from one kind of object.
type table[K comparable] struct {
	feed    *feed
	entries map[K]*entry
	dead    map[K]*entry // those of them that are gone, kept to tell clients of it
	found   int          // live entries that the snapshot being compared contains
}

func newTable[K comparable](f *feed) *table[K] {
	return &table[K]{feed: f, entries: make(map[K]*entry), dead: make(map[K]*entry)}
}

// kept reports whether k is unchanged in snapshot seq, and if so marks it as still there.
func (t *table[K]) kept(k K, src any, seq uint64) bool {
	e := t.entries[k]
	if e == nil || e.src != src {
		return false
	}
	e.seen = seq
	t.found++
	return true
}

// put records what k is in snapshot seq. An encoding that says the same as before is no change.
func (t *table[K]) put(k K, src any, rank int, res *discovery.Resource, seq uint64) {
	t.found++
	e := t.entries[k]
	switch {
	case e == nil:
		e = &entry{}
		e.at = t.feed.order.PushBack(e)
		t.entries[k] = e
	case e.gone():
		delete(t.dead, k)
	case e.res.Version == res.Version && e.res.Name == res.Name:
		e.src, e.seen, e.res = src, seq, res
		return
	}
	e.src, e.seen, e.res, e.rank, e.seq = src, seq, res, rank, seq
	t.feed.order.MoveToBack(e.at)
}

// remove records that k is not in snapshot seq.
func (t *table[K]) remove(k K, seq uint64) {
	e := t.entries[k]
	if e == nil || e.gone() {
		return
	}
	e.res, e.src, e.seq = &discovery.Resource{Name: e.res.Name}, nil, seq
	t.feed.order.MoveToBack(e.at)
	t.dead[k] = e
}

// sweep removes what snapshot seq did not contain, after all that it contains was taken in.
func (t *table[K]) sweep(seq uint64) {
	if t.found < len(t.entries)-len(t.dead) {
		for k, e := range t.entries {
			if e.seen != seq {
				t.remove(k, seq)
			}
		}
	}
	t.found = 0
}

// prune forgets removals up to seq, which every client was told of, once there are enough to be worth it.
func (t *table[K]) prune(seq uint64) {
	const worth = 256
	if len(t.dead) < worth {
		return
	}
	for k, e := range t.dead {
		if e.seq <= seq {
			t.feed.order.Remove(e.at)
			delete(t.entries, k)
			delete(t.dead, k)
		}
	}
}

// newResource encodes m. Its version is computed from versioned, from m itself if that is nil, and depends
// on content alone: another process that serves the same object gives it the same version.
func newResource(name string, m, versioned proto.Message) (*discovery.Resource, error) {
	body, err := encode(m)
	if err != nil {
		return nil, err
	}
	of := body
	if versioned != nil {
		if of, err = encode(versioned); err != nil {
			return nil, err
		}
	}
	sum := sha256.Sum256(of.Value)
	return &discovery.Resource{
		Name: name, Version: base64.RawURLEncoding.EncodeToString(sum[:12]), Resource: body,
	}, nil
}

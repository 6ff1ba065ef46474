// SPDX-License-Identifier: Apache-2.0

package informers

import (
	"bytes"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/warren-mesh/warren/mesh/kube"
)

// objects is what is kept of one kind: by "namespace/name", or the name of what has no namespace. Values are
// never modified.
type objects map[string][]byte

// kindCache is what a Reflector writes one kind into. Its fields belong to board's lock.
type kindCache struct {
	kind  kind
	board *board

	objects  objects
	problems map[string][]kube.Problem // of objects that can't be read, by key
	synced   bool
	contact  time.Time // when the server last said anything
	err      error     // why it does not now; nil while it does
	absent   time.Time // since when the server says it has no such kind
}

var (
	_ cache.TransformingStore      = (*kindCache)(nil)
	_ cache.ReflectorBookmarkStore = (*kindCache)(nil)
)

// Transformer trims what is streamed before it is complete.
func (c *kindCache) Transformer() cache.TransformFunc {
	return func(o any) (any, error) { return c.trim(o) }
}

func (c *kindCache) trim(o any) (runtime.Object, error) {
	r, ok := o.(runtime.Object)
	if !ok {
		return nil, fmt.Errorf("trim object: %T is no object", o)
	}
	return c.kind.trim(r)
}

func keyOf(o runtime.Object) (string, error) {
	m, ok := o.(metav1.Object)
	if !ok {
		return "", fmt.Errorf("name object: %T has no metadata", o)
	}
	if ns := m.GetNamespace(); ns != "" {
		return ns + "/" + m.GetName(), nil
	}
	return m.GetName(), nil
}

// Add takes a new object.
func (c *kindCache) Add(o any) error { return c.Update(o) }

// Update takes an object that may have changed.
func (c *kindCache) Update(o any) error {
	key, data, err := c.read(o)
	if err != nil {
		return err
	}
	c.board.mu.Lock()
	defer c.board.mu.Unlock()
	c.alive()
	c.put(key, data)
	return nil
}

// Delete forgets an object.
func (c *kindCache) Delete(o any) error {
	r, err := c.trim(o)
	if err != nil {
		return err
	}
	key, err := keyOf(r)
	if err != nil {
		return err
	}
	c.board.mu.Lock()
	defer c.board.mu.Unlock()
	c.alive()
	c.remove(key)
	return nil
}

// Replace takes the whole of a list; what changes is what differs.
func (c *kindCache) Replace(list []any, _ string) error {
	next := make(objects, len(list))
	for _, o := range list {
		key, data, err := c.read(o)
		if err != nil {
			return err
		}
		next[key] = data
	}
	c.board.mu.Lock()
	defer c.board.mu.Unlock()
	c.alive()
	c.replace(next)
	return nil
}

// Resync has nothing to do: every change is handed on at once.
func (c *kindCache) Resync() error { return nil }

// Bookmark is a sign of life.
func (c *kindCache) Bookmark(string) error {
	c.board.mu.Lock()
	defer c.board.mu.Unlock()
	c.alive()
	return nil
}

func (c *kindCache) read(o any) (string, []byte, error) {
	r, err := c.trim(o)
	if err != nil {
		return "", nil, err
	}
	key, err := keyOf(r)
	if err != nil {
		return "", nil, err
	}
	data, err := c.kind.encode(r)
	if err != nil {
		return "", nil, fmt.Errorf("keep %s %s: %w", c.kind.name, key, err)
	}
	return key, bytes.Clone(data), nil // without the room the encoder left
}

// The rest runs under the board's lock.

func (c *kindCache) alive() {
	c.contact, c.err, c.absent = c.board.now(), nil, time.Time{}
}

func (c *kindCache) put(key string, data []byte) {
	if old, ok := c.objects[key]; ok && bytes.Equal(old, data) {
		return
	}
	c.objects[key] = data
	c.tell(key, data)
}

func (c *kindCache) remove(key string) {
	if _, ok := c.objects[key]; !ok {
		return
	}
	delete(c.objects, key)
	delete(c.problems, key)
	c.board.changed(kube.Event{Object: named(c.kind.name, key), Deleted: true})
}

func (c *kindCache) replace(next objects) {
	for key := range c.objects {
		if _, ok := next[key]; !ok {
			c.remove(key)
		}
	}
	for key, data := range next {
		c.put(key, data)
	}
	c.synced = true
	c.board.arrived()
}

// tell hands on an object that came or changed.
func (c *kindCache) tell(key string, data []byte) {
	if !c.board.live {
		c.board.changed() // the whole is read when everything is there
		return
	}
	if ev, ok := c.event(key, data); ok {
		c.board.changed(ev)
	} else {
		c.board.changed()
	}
}

// event reads a kept object. Of a policy that can't be read what remains is handed on. The last good one stays.
func (c *kindCache) event(key string, data []byte) (kube.Event, bool) {
	o, errs := c.kind.decode(data)
	if len(errs) == 0 {
		delete(c.problems, key)
		return kube.Event{Object: o}, true
	}
	c.problems[key] = problemsOf(c.kind.name, key, errs)
	return remnant(c.kind.name, key, data)
}

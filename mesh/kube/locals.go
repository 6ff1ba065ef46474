// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"maps"
	"slices"
	"strings"
	"sync"
)

// LocalPods are this node's pods as Results tell of them, for readers that want to know when they change. Safe
// for concurrent use; see NewLocalPods.
type LocalPods struct {
	mu      sync.Mutex
	pods    map[string]LocalPod // by uid
	changed chan struct{}       // closed when pods change
}

// NewLocalPods returns none.
func NewLocalPods() *LocalPods {
	return &LocalPods{pods: map[string]LocalPod{}, changed: make(chan struct{})}
}

// Apply takes a result's changes.
func (l *LocalPods) Apply(r Result) {
	if len(r.LocalPods)+len(r.RemovedPods) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, uid := range r.RemovedPods {
		delete(l.pods, uid)
	}
	for _, p := range r.LocalPods {
		l.pods[p.UID] = p
	}
	l.tell()
}

// Replace takes the pods as all there are.
func (l *LocalPods) Replace(pods []LocalPod) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pods = make(map[string]LocalPod, len(pods))
	for _, p := range pods {
		l.pods[p.UID] = p
	}
	l.tell()
}

func (l *LocalPods) tell() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// All returns the pods ordered by namespace and name, and a channel that is closed when they change.
func (l *LocalPods) All() ([]LocalPod, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(maps.Values(l.pods), func(a, b LocalPod) int {
		return strings.Compare(a.Namespace+"/"+a.Name+"/"+a.UID, b.Namespace+"/"+b.Name+"/"+b.UID)
	}), l.changed
}

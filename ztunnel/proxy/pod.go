// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"slices"
	"sync"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel/inpod"
)

// listener is what the proxy needs of *inpod.Listener.
type listener interface {
	Accept() (*inpod.Conn, error)
	Close() error
}

// pod is what the proxy keeps for one pod, as long as ZDS or the broker names it.
type pod struct {
	uid     string
	account account
	// handshakes holds a token for each TLS handshake under way: strangers at port 15008 can have no more of the
	// process than that.
	handshakes chan struct{}
	usage      usage

	mu        sync.Mutex
	known     bool // ZDS named it
	name      mesh.Name
	identity  mesh.Identity
	wants     mesh.Identity // the identity whose key is kept for it now; guarded by Proxy.mu
	life      life
	listeners map[inpod.Kind]listener
	serving   map[inpod.Kind]bool // accept loops run for the present listener
	leaving   context.CancelFunc  // set while it leaves the mesh
	conns     map[uint64]*connection
	tunnels   map[*tunnel]struct{}
}

// life is one stay of a pod in the mesh. All its connections end with it.
type life struct {
	context.Context
	end context.CancelCauseFunc
}

// stay takes back leave; mu is held.
func (pd *pod) stay() {
	if pd.leaving != nil {
		pd.leaving()
		pd.leaving = nil
	}
}

func (pd *pod) self() mesh.Identity {
	pd.mu.Lock()
	defer pd.mu.Unlock()
	return pd.identity
}

func (pd *pod) count() int {
	pd.mu.Lock()
	defer pd.mu.Unlock()
	return len(pd.conns)
}

func (pd *pod) closeListeners() {
	pd.mu.Lock()
	defer pd.mu.Unlock()
	pd.closeListenersLocked()
}

func (pd *pod) closeListenersLocked() {
	for kind, l := range pd.listeners {
		_ = l.Close()
		delete(pd.listeners, kind)
	}
}

// goAway asks peers to open no new streams on the tunnels they hold to this pod.
func (pd *pod) goAway() {
	pd.mu.Lock()
	ts := make([]*tunnel, 0, len(pd.tunnels))
	for t := range pd.tunnels {
		ts = append(ts, t)
	}
	pd.mu.Unlock()
	for _, t := range ts {
		t.server.GoAway()
	}
}

// PodInfo describes a pod for the admin page.
type PodInfo struct {
	UID       string
	Name      mesh.Name
	Identity  mesh.Identity
	Known     bool // ZDS named it
	Leaving   bool
	Listeners []string
	Inbound   []ConnectionInfo
	Outbound  []ConnectionInfo
}

func (pd *pod) info() PodInfo {
	pd.mu.Lock()
	defer pd.mu.Unlock()
	i := PodInfo{UID: pd.uid, Name: pd.name, Identity: pd.identity, Known: pd.known, Leaving: pd.leaving != nil}
	for kind := range pd.listeners {
		i.Listeners = append(i.Listeners, kind.String())
	}
	slices.Sort(i.Listeners)
	for _, c := range pd.conns {
		if ci := c.info(); ci.Direction == outbound {
			i.Outbound = append(i.Outbound, ci)
		} else {
			i.Inbound = append(i.Inbound, ci)
		}
	}
	return i
}

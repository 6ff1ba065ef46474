// SPDX-License-Identifier: Apache-2.0

package inpod

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/broker"
)

// handle takes one message of a broker in; the descriptors are its own. An error ends the connection.
func (b *Broker) handle(m broker.Message, fds []int) error {
	switch m.Type {
	case broker.TypeSockets:
		var s broker.Sockets
		if err := m.Into(&s); err != nil {
			broker.CloseFDs(fds)
			return err
		}
		if s.Error != "" {
			b.log.Debug("broker gave no sockets", "pod", s.Pod, "err", s.Error)
		}
		b.mu.Lock()
		p := b.pools[s.Pod]
		b.mu.Unlock()
		if p == nil { // the pod went meanwhile; its namespace must not live on in these
			broker.CloseFDs(fds)
			return nil
		}
		p.give(s, fds)
		return nil
	case broker.TypeListener:
		return b.takeListener(m, fds)
	case broker.TypeUnix, broker.TypeFile:
		return b.takeReply(m, fds)
	}
	broker.CloseFDs(fds)
	switch m.Type {
	case broker.TypeListenersDone:
		return nil
	case broker.TypePodDraining, broker.TypePodGone:
		var p broker.PodMessage
		if err := m.Into(&p); err != nil {
			return err
		}
		if m.Type == broker.TypePodGone {
			b.podGone(p.Pod)
		} else {
			b.podDraining(p.Pod)
		}
		return nil
	}
	return fmt.Errorf("receive broker message: %w (message %d is not for ztunnel)", broker.ErrMalform, m.Type)
}

func (b *Broker) takeListener(m broker.Message, fds []int) error {
	var lm broker.ListenerMessage
	err := m.Into(&lm)
	if err == nil && len(fds) == 0 {
		return nil // lost on the way; logged, and the broker sends all again when it reconnects
	}
	if err == nil && (len(fds) != 1 || lm.Kind >= broker.Kinds || lm.Pod == "") {
		err = fmt.Errorf("receive listener: %w", broker.ErrMalform)
	}
	if err != nil {
		broker.CloseFDs(fds)
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	ls := b.listeners[lm.Pod]
	if ls == nil {
		ls = new([broker.Kinds]*Listener)
		b.listeners[lm.Pod] = ls
	}
	old := ls[lm.Kind]
	if old != nil && old.cookie == lm.Cookie && old.withFD(func(int) error { return nil }) == nil {
		unix.Close(fds[0]) // the one held already
		return nil
	}
	l, err := newListener(lm.Pod, lm.Kind, fds[0])
	if err != nil {
		b.log.Error("listener from the broker", "err", err)
		return nil
	}
	if old != nil {
		old.Close()
	}
	ls[lm.Kind] = l
	b.events.put(Event{Pod: lm.Pod, Kind: lm.Kind, Listener: l})
	// Sockets before the first dial: the first connection shall not wait for them.
	p := b.poolLocked(lm.Pod)
	go p.resume()
	return nil
}

func (b *Broker) takeReply(m broker.Message, fds []int) error {
	var r broker.NameReply
	if err := m.Into(&r); err != nil {
		broker.CloseFDs(fds)
		return err
	}
	b.mu.Lock()
	ch, ok := b.asked[r.ID]
	delete(b.asked, r.ID)
	b.mu.Unlock()
	switch {
	case !ok: // gave up waiting
		broker.CloseFDs(fds)
	case len(fds) == 0:
		ch <- reply{msg: r, fd: -1}
	default:
		broker.CloseFDs(fds[1:])
		ch <- reply{msg: r, fd: fds[0]}
	}
	return nil
}

func (b *Broker) podDraining(pod string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ls := b.listeners[pod]; ls != nil {
		closeListeners(ls, HBONE)
	}
	b.events.put(Event{Pod: pod, Draining: true})
}

func (b *Broker) podGone(pod string) {
	b.mu.Lock()
	p := b.pools[pod]
	delete(b.pools, pod)
	if ls := b.listeners[pod]; ls != nil {
		closeListeners(ls, broker.Kinds)
		delete(b.listeners, pod)
	}
	b.events.put(Event{Pod: pod, Gone: true})
	b.mu.Unlock()
	if p != nil {
		p.close()
	}
}

// closeListeners closes the listeners of all kinds but one.
func closeListeners(ls *[broker.Kinds]*Listener, except Kind) {
	for k, l := range ls {
		if l != nil && Kind(k) != except {
			l.Close()
			ls[k] = nil
		}
	}
}

// pool returns the pod's pool, made on first use.
func (b *Broker) pool(pod string) *pool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.poolLocked(pod)
}

func (b *Broker) poolLocked(pod string) *pool {
	p := b.pools[pod]
	if p == nil {
		p = newPool(pod, b.askSockets)
		b.pools[pod] = p
	}
	return p
}

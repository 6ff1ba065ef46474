// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// handedListener is a listener that a ztunnel, or the broker before this one, handed over. It is kept until its
// pod is captured or known not to be wanted.
type handedListener struct {
	message wire.ListenerMessage
	fd      int
}

// keepHanded takes a listener over for later; one of the same pod and kind from another party is the same socket. Who
// hands over is not believed: neither the socket's cookie, nor that there is an end to it.
func (b *Broker) keepHanded(h handedListener) {
	cookie, err := unix.GetsockoptUint64(h.fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil || cookie != h.message.Cookie || h.message.Kind >= wire.Kinds || b.heldHanded(h.message) {
		unix.Close(h.fd)
		return
	}
	b.handed[h.message.Pod] = append(b.handed[h.message.Pod], h)
}

// heldHanded reports whether the listener is kept already, or there is no room for another.
func (b *Broker) heldHanded(m wire.ListenerMessage) bool {
	for _, o := range b.handed[m.Pod] {
		if o.message.Kind == m.Kind && o.message.Cookie == m.Cookie {
			return true
		}
	}
	n := 0
	for _, hs := range b.handed {
		n += len(hs)
	}
	return n >= maxHanded
}

// adopt takes the pod's listeners out of what was handed over: those of its namespace, and, where an earlier
// process noted them, with that socket's own cookie.
func (b *Broker) adopt(p *pod) {
	uid := p.want.UID
	for _, h := range b.handed[uid] {
		k := h.message.Kind
		if p.listeners[k] != nil {
			unix.Close(h.fd)
			continue
		}
		l, err := adoptListener(k, h.fd, p.place.ns.cookie)
		if want := p.saved.Listeners[k]; err == nil && want != 0 && want != l.cookie {
			b.log.Warn("handed listener is not the one noted", "uid", uid, "kind", k, "cookie", l.cookie, "noted", want)
			unix.Close(h.fd)
			continue
		}
		if err != nil {
			b.log.Warn("handed listener", "uid", uid, "err", err)
			unix.Close(h.fd)
			continue
		}
		p.listeners[k] = l
		b.log.Info("listener adopted", "uid", uid, "kind", k, "cookie", l.cookie)
	}
	delete(b.handed, uid)
}

func (b *Broker) dropHanded(uid string) {
	for _, h := range b.handed[uid] {
		unix.Close(h.fd)
	}
	delete(b.handed, uid)
}

// handedBack takes in a listener that a connected ztunnel holds. One of an unknown pod waits for the agent's
// complete list; what that does not name is gone for ztunnel too.
func (b *Broker) handedBack(z *ztunnel, h handedListener) {
	p := b.pods[h.message.Pod]
	switch {
	case p == nil && b.synced:
		unix.Close(h.fd)
		z.tell(wire.TypePodGone, wire.PodMessage{Pod: h.message.Pod})
	case p == nil || p.phase == waiting:
		b.keepHanded(h)
	default:
		unix.Close(h.fd) // the broker's own is what counts; ztunnel is told it after the list
	}
}

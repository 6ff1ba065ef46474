// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/zds"
	"github.com/warren-mesh/warren/ztunnel/lb"
)

// pods takes what ZDS says.
type pods struct {
	z     *ZTunnel
	known func() // every pod of the node is
}

func newPods(z *ZTunnel) pods { return pods{z, sync.OnceFunc(func() { close(z.podsKnown) })} }

// Add serves a pod; its listeners come from the broker, before or after.
func (p pods) Add(w zds.Workload) error {
	if w.Netns != nil { // a foreign agent's; this ztunnel's sockets come from the broker
		_ = w.Netns.Close()
	}
	p.z.proxy.Add(w.UID, w.Namespace, w.Name, w.ServiceAccount)
	return nil
}

// Del lets a pod leave.
func (p pods) Del(uid string) { p.z.proxy.Delete(uid) }

// Synced: every pod of the node is known.
func (p pods) Synced() {
	p.z.ready.Done(taskPods)
	p.known()
}

var _ zds.Handler = pods{}

// authorities are the addresses of control: it is found among the mesh's own objects, not by DNS.
func (z *ZTunnel) authorities() []netip.AddrPort {
	snap := z.store.Snapshot()
	svc := snap.Service(z.cfg.CAService)
	if svc == nil {
		return nil
	}
	var like netip.Addr
	if len(svc.Addresses) > 0 {
		like = svc.Addresses[0]
	}
	var out []netip.AddrPort
	c := lb.Gather(snap, svc, z.cfg.CAPort, like, z.cfg.Node, nil)
	for _, e := range append(c.Usable, c.Pending...) { // control is outside the mesh
		out = append(out, e.Target)
	}
	return out
}

// runCertificates begins when the mesh's objects are there: they say where the authority is, and a first attempt
// without it would cost a back-off.
func (z *ZTunnel) runCertificates(ctx context.Context) error {
	select {
	case <-z.wds.Ready():
		return z.ids.Run(ctx)
	case <-ctx.Done():
		return nil
	}
}

// watchReady marks the tasks that end by themselves.
func (z *ZTunnel) watchReady(ctx context.Context) error {
	select {
	case <-z.wds.Ready():
		z.ready.Done(taskObjects)
	case <-ctx.Done():
		return nil
	}
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		_ = z.roots.Refresh(ctx) // Run logs what is wrong
		if z.roots.Known() {
			z.ready.Done(taskRoots)
			return nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// Snapshot is what this ztunnel knows of the mesh.
func (z *ZTunnel) Snapshot() *mesh.Snapshot { return z.store.Snapshot() }

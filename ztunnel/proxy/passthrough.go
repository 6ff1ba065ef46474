// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/netip"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
	"github.com/warren-mesh/warren/ztunnel/authz"
	"github.com/warren-mesh/warren/ztunnel/inpod"
	"github.com/warren-mesh/warren/ztunnel/metrics"
	"github.com/warren-mesh/warren/ztunnel/route"
)

// servePlaintext carries one plain TCP connection to a captured pod. Nothing is read from it before policy
// allowed it and the application accepted.
func (p *Proxy) servePlaintext(stay life, pd *pod, client *inpod.Conn) {
	f := facts{direction: inbound, src: client.RemoteAddrPort(), dst: client.LocalAddrPort(), target: client.LocalAddrPort()}
	c, err := p.begin(stay, pd, metrics.Destination, f, tcpSide{client})
	if err == nil {
		err = c.carryPlaintext(client)
	}
	c.finish(err)
}

func (c *connection) carryPlaintext(client *inpod.Conn) error {
	src, dst := client.RemoteAddrPort(), client.LocalAddrPort()
	err := c.admitted(func() (netip.Addr, netip.AddrPort, error) { return src.Addr(), dst, c.admitPlaintext(src, dst) })
	if err != nil {
		return err
	}
	app, err := c.dialApplication(dst, src)
	if err != nil {
		return err
	}
	c.established()
	return relay(tcpSide{client}, app, &c.up, &c.down)
}

// admitPlaintext evaluates policy first, for STRICT refuses at once, then whether plaintext may come from there.
func (c *connection) admitPlaintext(src, dst netip.AddrPort) error {
	var d route.Decision
	var v verdict
	err := c.proxy.await(c.ctx, func(snap *mesh.Snapshot, last bool) bool {
		local := c.pod.workload(snap, func() *mesh.Workload { return snap.WorkloadByAddr(dst.Addr()) })
		c.learn(func(f *facts) { f.source, f.destination = snap.WorkloadByAddr(src.Addr()), local })
		v = verdict{allowed: true}
		if local != nil {
			if v = c.ask(snap, local, authz.Connection{Source: src.Addr(), Destination: dst}); !v.allowed {
				return v.reason != reason.PolicyUnknown || last
			}
		}
		if d = route.Plaintext(snap, local, c.pod.uid, src.Addr(), dst, c.proxy.cfg.Now()); d.Action == route.Wait && last {
			d = d.Expired()
		}
		return d.Action != route.Wait
	})
	switch {
	case err != nil:
		return err
	case !v.allowed:
		c.learn(func(f *facts) { f.reason, f.policy = v.reason, v.policy })
		return fail(v.reason, "%s: %s", src, v.reason.Text())
	}
	c.learn(func(f *facts) { f.reason = d.Reason })
	if d.Action != route.Passthrough {
		return fail(d.Reason, "%s: %s", src, d.Reason.Text())
	}
	return nil
}

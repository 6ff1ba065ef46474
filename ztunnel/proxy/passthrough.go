// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/netip"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel/admit"
	"github.com/warren-mesh/warren/ztunnel/inpod"
	"github.com/warren-mesh/warren/ztunnel/metrics"
	"github.com/warren-mesh/warren/ztunnel/route"
)

// servePlaintext carries one plain TCP connection to a captured pod. Nothing is read from it before policy
// allowed it and the application accepted.
func (p *Proxy) servePlaintext(stay life, pd *pod, client *inpod.Conn) *relaying {
	f := facts{direction: inbound, src: client.RemoteAddrPort(), dst: client.LocalAddrPort(), target: client.LocalAddrPort()}
	c, err := p.begin(stay, pd, metrics.Destination, f, tcpSide{client, &pd.account})
	var r *relaying
	if err == nil {
		r, err = c.carryPlaintext(client)
	}
	return c.finishAfter(r, err)
}

func (c *connection) carryPlaintext(client *inpod.Conn) (*relaying, error) {
	src, dst := client.RemoteAddrPort(), client.LocalAddrPort()
	err := c.admitted(func() (netip.Addr, netip.AddrPort, error) { return src.Addr(), dst, c.admitPlaintext(src, dst) })
	if err != nil {
		return nil, err
	}
	app, err := c.dialApplication(dst, src)
	if err != nil {
		return nil, err
	}
	c.established()
	return &relaying{client: tcpSide{client, &c.pod.account}, server: app, moved: c.moved}, nil
}

// admitPlaintext evaluates policy first, for STRICT refuses at once, then whether plaintext may come from there.
func (c *connection) admitPlaintext(src, dst netip.AddrPort) error {
	var d admit.Decision
	err := c.proxy.await(c.ctx, func(snap *mesh.Snapshot, last bool) bool {
		local := c.pod.workload(snap, func() *mesh.Workload { return snap.WorkloadByAddr(dst.Addr()) })
		if d = admit.Plaintext(snap, &c.proxy.policies, local, c.pod.uid, src.Addr(), dst, c.proxy.cfg.Now()); last {
			d = d.Expired()
		}
		c.learn(func(f *facts) { f.source, f.destination = snap.WorkloadByAddr(src.Addr()), local })
		c.judged(d)
		return d.Action != route.Wait
	})
	if err != nil {
		return err
	}
	c.learn(func(f *facts) { f.reason = d.Reason })
	if d.Action != route.Passthrough {
		return fail(d.Reason, "%s: %s", src, d.Text())
	}
	return nil
}

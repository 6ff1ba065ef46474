// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"crypto/tls"
	"strings"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel/hbone"
)

// trusted judges a tunnel from here by its far end's certificate.
func (p *Proxy) trusted(k hbone.Key, cs tls.ConnectionState) error {
	source, err := mesh.ParseIdentity(k.Source)
	if err != nil {
		return err
	}
	return p.cfg.Identities.StillServer(cs, source, strings.Split(k.Expected, ","))
}

// vouched lets a change of trust end the connection, by what its tunnel's far end proved. seen is the number of
// changes from before the tunnel was chosen: what changed since, recheckTrust may have told others before this one.
func (c *connection) vouched(seen uint64, vouch func() error) error {
	c.mu.Lock()
	c.vouch = vouch
	c.mu.Unlock()
	if c.proxy.trustChanges.Load() == seen {
		return nil
	}
	return vouch()
}

// recheckTrust judges every live tunnel again, by what is trusted now, and ends those whose far end would not be
// believed any more, with all they carry.
func (p *Proxy) recheckTrust() {
	tunnels, conns := p.pool.Recheck(), 0
	p.trustChanges.Add(1)
	for _, pd := range p.list() {
		for _, t := range pd.listTunnels() {
			if err := p.cfg.Identities.StillClient(t.server.ConnectionState(), pd.self()); err != nil {
				t.server.End(err)
				tunnels++
			}
		}
		for _, c := range pd.list() {
			c.mu.Lock()
			vouch := c.vouch
			c.mu.Unlock()
			if vouch == nil {
				continue
			}
			if err := vouch(); err != nil {
				c.cancel(err)
				conns++
			}
		}
	}
	p.log.Info("live tunnels judged by what is trusted now", "ended_tunnels", tunnels, "ended_outbound_connections", conns)
}

// Moved has an identity's tunnels carry nothing new: they were proven by a certificate whose root is about to go. What
// they carry lives to its end.
func (p *Proxy) Moved(id mesh.Identity) {
	p.pool.GoAwayFrom(id.String())
	for _, pd := range p.list() {
		if pd.self() == id {
			pd.goAway()
		}
	}
}

func (pd *pod) listTunnels() []*tunnel {
	pd.mu.Lock()
	defer pd.mu.Unlock()
	out := make([]*tunnel, 0, len(pd.tunnels))
	for t := range pd.tunnels {
		out = append(out, t)
	}
	return out
}

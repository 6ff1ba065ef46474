// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// purchases lets the shopper buy, and the client outside as well, which is refused unless welcome.
func (d *Demo) purchases(welcome bool) {
	d.buy("shop/shopper", ShopperCard, purchases, true)
	d.buy("default/legacy", LegacyCard, 1, welcome)
}

func (d *Demo) buy(pod, card string, n int, welcome bool) {
	ctx, cancel := context.WithTimeout(d.ctx, 30*time.Second)
	defer cancel()
	out, err := d.Exec(ctx, pod, "buy", "-card", card, "-n", strconv.Itoa(n), ShopURL)
	switch {
	case welcome && err != nil:
		d.t.Fatalf("%s buys: %v", pod, err)
	case !welcome && err == nil:
		d.t.Fatalf("%s could buy though it should be refused: %s", pod, out)
	}
}

// dump is what of a ztunnel's /config_dump is looked at.
type dump struct {
	Workloads []struct {
		UID, Namespace, Capture string
		AuthorizationPolicies   []string
	}
	Policies []struct{ Name, Namespace, Action string }
}

// known says whether the ztunnels of all nodes know something.
func (d *Demo) known(what func(dump) bool) bool {
	for _, n := range d.Nodes() {
		body, err := n.Ztunnel(d.ctx, "http://localhost:15000/config_dump")
		var c dump
		if err != nil || json.Unmarshal([]byte(body), &c) != nil || !what(c) {
			return false
		}
	}
	return true
}

// captures: every pod of the shop is known as captured.
func captures(c dump) bool {
	pods := 0
	for _, w := range c.Workloads {
		if w.Namespace != ShopNamespace {
			continue
		}
		if w.Capture != "captured" {
			return false
		}
		pods++
	}
	return pods > 0
}

// strictly: a policy made from the PeerAuthentication has arrived, and every pod of the shop refers to one.
func strictly(c dump) bool {
	if len(c.Policies) == 0 {
		return false
	}
	for _, w := range c.Workloads {
		if w.Namespace == ShopNamespace && !strings.Contains(strings.Join(w.AuthorizationPolicies, " "), "strict") {
			return false
		}
	}
	return true
}

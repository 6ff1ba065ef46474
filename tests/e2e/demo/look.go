// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"

	"github.com/warren-mesh/warren/tests/demo"
)

// further returns what a user may want to see next.
func (o *Options) further(b *bed) []demo.Look {
	k, n := o.Kubectl, b.nodes[0].(*node)
	own := fmt.Sprintf("%s -n %s", k, system)
	return []demo.Look{
		{What: "pods, and what is captured", Command: k + ` get pods -n shop -o custom-columns='POD:.metadata.name,NODE:.spec.nodeName,CAPTURED:.metadata.annotations.warren\.dev/captured'`},
		{What: "Warren's own pods", Command: own + " get pods -o wide"},
		{What: "the access log of node " + n.name, Command: fmt.Sprintf("%s logs %s --tail 20", own, n.ztunnel)},
		{What: "why the client outside is refused", Command: fmt.Sprintf("%s exec %s -c agent -- /warrenctl explain default/legacy web.shop:80", own, n.agent)},
		{What: "all that node's ztunnel knows: workloads, services, policies, certificates", Command: fmt.Sprintf("%s exec %s -c agent -- /warrenctl workloads", own, n.agent)},
		{What: "a purchase by the client outside, refused", Command: fmt.Sprintf("%s exec legacy -- shop buy --card %s %s", k, demo.LegacyCard, demo.ShopURL)},
		{What: "the customer's purchases", Command: k + " logs -n shop customer --tail 5"},
	}
}

// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net/netip"
)

// The cluster's addresses lie in network namespaces of their own: they collide with nothing on this machine.
const (
	nodeNetwork4, nodeNetwork6       = "10.210.0.0/24", "fd00:210::/64"
	podNetwork4, podNetwork6         = "10.220.0.0/16", "fd00:220::/48"
	serviceNetwork4, serviceNetwork6 = "10.230.0.0/16", "fd00:230::/108"

	apiPort       = 6443
	clusterDomain = "cluster.local"
)

var (
	control4, control6 = netip.MustParseAddr("10.210.0.1"), netip.MustParseAddr("fd00:210::1")
	// The API server's own Service takes the first address, DNS by custom the tenth.
	apiService        = netip.MustParseAddr("10.230.0.1")
	apiService6       = netip.MustParseAddr("fd00:230::1")
	dns4, dns6        = netip.MustParseAddr("10.230.0.10"), netip.MustParseAddr("fd00:230::a")
	podCIDRs          = podNetwork4 + "," + podNetwork6
	serviceCIDRs      = serviceNetwork4 + "," + serviceNetwork6
	apiServerURL      = fmt.Sprintf("https://%s", netip.AddrPortFrom(control4, apiPort))
	podMaskSize4      = 24
	podMaskSize6      = 64
	nodeMask4         = netip.MustParsePrefix(nodeNetwork4).Bits()
	nodeMask6         = netip.MustParsePrefix(nodeNetwork6).Bits()
	loopbackAPITarget = fmt.Sprintf("127.0.0.1:%d", apiPort)
	loopback4         = netip.MustParseAddr("127.0.0.1")
)

// nodeAddresses of the nth node, counted from 1: 10.210.0.11 and fd00:210::11 for the first.
func nodeAddresses(n int) (v4, v6 netip.Addr) {
	four, six := control4.As4(), control6.As16()
	four[3] = byte(10 + n)
	six[15] = byte(0x10 + n)
	return netip.AddrFrom4(four), netip.AddrFrom16(six)
}

// nodeMAC of the nth node stays the same when it restarts, as its neighbours remember it.
func nodeMAC(n int) string { return fmt.Sprintf("02:57:61:72:00:%02x", 10+n) }

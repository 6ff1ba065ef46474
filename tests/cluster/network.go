// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"

	"github.com/warren-mesh/warren/tests/cluster/machine"
)

// ip gives a batch of commands to ip(8) in the machine's network namespace. Only that namespace is entered: names and
// pids are those of this machine.
func ip(ctx context.Context, m *machine.Machine, commands ...string) error {
	cmd := exec.CommandContext(ctx, "nsenter", "-t", strconv.Itoa(m.PID), "-n", "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("set up network of %s: %w: %s", m.Name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// wireControl makes the bridge every node hangs on.
func (c *Cluster) wireControl(ctx context.Context) error {
	return ip(ctx, c.control,
		"link set lo up",
		"link add br0 type bridge",
		fmt.Sprintf("addr add %s/%d dev br0", control4, nodeMask4),
		fmt.Sprintf("addr add %s/%d dev br0 nodad", control6, nodeMask6),
		"link set br0 up")
}

// wireNode connects a node's eth0 to the bridge.
func (c *Cluster) wireNode(ctx context.Context, n *node) error {
	c.unplug(ctx, n.Machine)
	err := ip(ctx, c.control,
		fmt.Sprintf("link add %s type veth peer name eth0 address %s netns %d", n.Name, nodeMAC(n.number), n.PID),
		fmt.Sprintf("link set %s master br0 up", n.Name))
	if err != nil {
		return err
	}
	v4, v6 := nodeAddresses(n.number)
	return ip(ctx, n.Machine,
		"link set lo up",
		fmt.Sprintf("addr add %s/%d dev eth0", v4, nodeMask4),
		fmt.Sprintf("addr add %s/%d dev eth0 nodad", v6, nodeMask6),
		"link set eth0 up",
		"route add default via "+control4.String(),
		"route add ::/0 via "+control6.String())
}

// unplug removes a node's cable, by either end: a network namespace, and what is in it, outlives its processes for a
// moment. It is no error if there is none.
func (c *Cluster) unplug(ctx context.Context, m *machine.Machine) {
	if m == c.control {
		return
	}
	if c.control.PID != 0 {
		_ = ip(ctx, c.control, "link del "+m.Name)
	}
	if m.PID != 0 {
		_ = ip(ctx, m, "link del eth0")
	}
}

// routePods tells the control plane and every running node where the pods of each node are.
func (c *Cluster) routePods(ctx context.Context) error {
	for _, m := range c.machines() {
		if m.PID == 0 {
			continue
		}
		var commands []string
		for _, n := range c.nodes {
			v4, v6 := nodeAddresses(n.number)
			for _, p := range n.podCIDRs {
				if m == n.Machine {
					continue
				}
				via := v4
				if p.Addr().Is6() {
					via = v6
				}
				commands = append(commands, fmt.Sprintf("route replace %s via %s", p, via))
			}
		}
		if len(commands) == 0 {
			continue
		}
		if err := ip(ctx, m, commands...); err != nil {
			return err
		}
	}
	return nil
}

// conflist is the CNI chain: a bridge with the node's own ranges, and host ports.
func conflist(cidrs []netip.Prefix) string {
	ranges := make([]string, len(cidrs))
	for i, p := range cidrs {
		ranges[i] = fmt.Sprintf(`[{"subnet": %q}]`, p)
	}
	return fmt.Sprintf(`{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isDefaultGateway": true,
      "forceAddress": true,
      "ipMasq": false,
      "hairpinMode": true,
      "mtu": 1500,
      "ipam": {
        "type": "host-local",
        "dataDir": "/run/cni-ipam",
        "ranges": [%s]
      }
    },
    {
      "type": "portmap",
      "backend": "nftables",
      "capabilities": {"portMappings": true}
    }
  ]
}
`, strings.Join(ranges, ", "))
}

// machineSysctls make a machine a router that has no private addresses to find duplicates of.
var machineSysctls = map[string]string{
	"net/ipv4/ip_forward":              "1",
	"net/ipv6/conf/all/forwarding":     "1",
	"net/ipv6/conf/default/accept_dad": "0",
	"net/ipv4/ip_local_reserved_ports": "30000-32767",
	"net/ipv4/conf/default/rp_filter":  "0",
}

// kernelSysctls are what a kubelet writes for the whole kernel unless it finds them so.
var kernelSysctls = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

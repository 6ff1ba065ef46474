// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// Settings of a captured pod's namespace, written on a thread in it.
const (
	// twReuse lets connects to the pod's own address take over source ports in TIME_WAIT; without it a pod runs
	// out of them at about 470 connections per second.
	twReuse = "sys/net/ipv4/tcp_tw_reuse"
	// reservedPorts are no source ports unless asked for. A connect that got the very port of the capture range it
	// is sent to would meet itself: the application would read what it wrote.
	reservedPorts = "sys/net/ipv4/ip_local_reserved_ports"
)

// sysctls are what capture changes; each tells the new value from the one before, and the one before from one
// that may be new already, because a broker that lost its state comes back.
var sysctls = map[string]struct{ set, unset func(string) string }{
	twReuse:       {func(string) string { return "1" }, func(s string) string { return s }},
	reservedPorts: {reserve, unreserve},
}

var captureRange = fmt.Sprintf("%d-%d", wire.CaptureFirst, wire.CaptureLast)

func reserve(list string) string {
	if list == "" {
		return captureRange
	}
	return list + "," + captureRange
}

func unreserve(list string) string {
	ports := slices.DeleteFunc(strings.Split(list, ","), func(p string) bool { return p == captureRange })
	return strings.Join(ports, ",")
}

// changeSysctls sets what is not in before yet, and notes there what it was.
func changeSysctls(proc string, before map[string]string) error {
	for name, change := range sysctls {
		if _, done := before[name]; done {
			continue
		}
		b, err := os.ReadFile(filepath.Join(proc, name))
		if err != nil {
			return err
		}
		was := change.unset(strings.TrimSpace(string(b)))
		if err := writeSysctl(proc, name, change.set(was)); err != nil {
			return err
		}
		before[name] = was
	}
	return nil
}

// writeSysctl ends the value with a newline: an empty list of ports is written too.
func writeSysctl(proc, name, value string) error {
	return os.WriteFile(filepath.Join(proc, name), []byte(value+"\n"), 0)
}

// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"os"
	"path/filepath"
	"strings"
)

// twReuse lets connects to the pod's own address take over source ports in TIME_WAIT; without it a pod runs out
// of them at about 470 connections per second. Written on a thread in the pod's namespace.
const twReuse = "sys/net/ipv4/tcp_tw_reuse"

// setSysctl writes a value and returns the one before.
func setSysctl(proc, name, value string) (before string, err error) {
	path := filepath.Join(proc, name)
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	before = strings.TrimSpace(string(b))
	if before == value {
		return before, nil
	}
	return before, os.WriteFile(path, []byte(value), 0)
}

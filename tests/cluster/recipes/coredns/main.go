// SPDX-License-Identifier: Apache-2.0

//go:build ignore

// Command coredns is CoreDNS with the plugins a cluster needs, in the order they are asked.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
)

func main() {
	dnsserver.Directives = []string{"log", "errors", "health", "ready", "cache", "kubernetes"}
	coremain.Run()
}

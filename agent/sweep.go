// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/cni"
)

// beginning is how young a socket is whose agent may be about to listen on it.
const beginning = 10 * time.Second

// sweep removes sockets that agents left which were killed: nobody else would, and there would be more with each.
func sweep(dir string, log *slog.Logger) {
	for _, s := range []struct {
		part, network string
		beside        []string // of the same agent; to dial them would be taken for ztunnel
	}{
		{cni.SocketPart, "unixpacket", []string{"wds", "zds"}},
		{"debug", "unix", nil},
	} {
		paths, err := broker.SocketPaths(dir, "agent", s.part)
		if err != nil {
			log.Warn("look for sockets of agents that ended", "err", err)
		}
		for _, p := range paths {
			if !abandoned(s.network, p) {
				continue
			}
			log.Info("socket of an agent that was killed removed", "path", p)
			for _, part := range append(s.beside, s.part) {
				_ = os.Remove(strings.TrimSuffix(p, s.part+".sock") + part + ".sock")
			}
		}
	}
}

// abandoned reports whether nobody listens on a socket any more.
func abandoned(network, path string) bool {
	st, err := os.Stat(path)
	if err != nil || time.Since(st.ModTime()) < beginning {
		return false
	}
	c, err := net.DialTimeout(network, path, time.Second)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

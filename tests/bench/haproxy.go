// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/warren-mesh/warren/tests/netns"
)

const (
	relayPort  = 8000 // where the client's relay listens, on the loopback
	tunnelPort = 8443 // where the server's relay listens
)

// relayConfig is what both relays share. Certificates of both ends are verified; the cipher is the one that Warren's
// ends agree on, and everything else HAProxy's default.
const relayConfig = `global
  nbthread 2
  maxconn 4000
  tune.bufsize 65536
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
  ssl-default-server-options ssl-min-ver TLSv1.3
  ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen relay
  bind %s
  server next %s
`

// startRelays starts one relay in each pod, as a sidecar stands, and waits until they listen. On one node there is one,
// without TLS.
func (s *system) startRelays(ctx context.Context, dir string) error {
	s.target = fmt.Sprintf("127.0.0.1:%d", relayPort)
	if s.near {
		one, err := startRelay(ctx, s.client, dir, s.target, s.server.Addr("tcp4", serverPort).String())
		if err != nil {
			return err
		}
		s.groups, s.ends, s.idle = []group{{name: "relay", pids: []int{one}}}, []int{one}, []int{one}
		return s.awaitRelays(ctx)
	}
	if err := writeCertificates(dir); err != nil {
		return err
	}
	ours := func(name string) string {
		return fmt.Sprintf("ssl crt %s ca-file %s verify required", filepath.Join(dir, name+".pem"), filepath.Join(dir, "ca.pem"))
	}
	tunnel := s.server.Addr("tcp4", tunnelPort).String()
	near, err := startRelay(ctx, s.client, dir, s.target, tunnel+" "+ours("client"))
	if err != nil {
		return err
	}
	far, err := startRelay(ctx, s.server, dir, tunnel+" "+ours("server"), fmt.Sprintf("127.0.0.1:%d", serverPort))
	if err != nil {
		return err
	}
	s.groups = []group{{name: "relays", pids: []int{near, far}}}
	s.ends, s.idle = []int{near, far}, []int{near}
	return s.awaitRelays(ctx)
}

// startRelay returns the relay's pid.
func startRelay(ctx context.Context, p *netns.Pod, dir, bind, next string) (int, error) {
	binary, err := exec.LookPath("haproxy")
	if err != nil {
		return 0, fmt.Errorf("%w (on Debian: apt-get install haproxy; or leave it out with -systems none,warren)", err)
	}
	file := filepath.Join(dir, p.Name+".cfg")
	if err := os.WriteFile(file, fmt.Appendf(nil, relayConfig, bind, next), 0o600); err != nil {
		return 0, err
	}
	log, err := os.Create(filepath.Join(dir, p.Name+".log"))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, binary, "-db", "-f", file)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = ownSession()
	if err := p.Start(cmd); err != nil {
		return 0, fmt.Errorf("start haproxy in %s: %w", p, err)
	}
	go func() { _ = cmd.Wait() }()
	return cmd.Process.Pid, nil
}

// awaitRelays waits until a message comes back through both.
func (s *system) awaitRelays(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		_, err := s.attempt(ctx, order{Kind: kindMemory, Target: s.target, Conns: 1, Size: 64})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("HAProxy's relays don't answer: %w", errors.Join(err, relayLogs(s)))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func relayLogs(s *system) error {
	var errs []error
	for _, pid := range s.ends {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err != nil || !strings.HasPrefix(string(b), haproxy) {
			errs = append(errs, fmt.Errorf("relay %d has ended", pid))
		}
	}
	return errors.Join(errs...)
}

// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/warren-mesh/warren/cmd/internal/cluster"
	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/dump"
)

// Sources are where answers come from.
type Sources struct {
	// Agent and Ztunnel are URLs; without both, the sockets in RunDir, or the agents of a cluster.
	Agent, Ztunnel, RunDir string
	// Cluster, where RunDir is not there or it is asked for.
	Cluster cluster.Config

	format format
	opened *cluster.Cluster // nil until asked, and where no cluster is

	// Of one node of a cluster: its name, and the client that leads to its agent.
	node    string
	through *http.Client
}

// onSocket is the URL of what a socket leads to.
const onSocket = "http://localhost"

const (
	timeout   = 30 * time.Second
	mostBytes = 256 << 20 // of an answer
)

// ztunnel asks a page of ztunnel: itself, or by the agent, which has it at another path.
func (s *Sources) ztunnel(ctx context.Context, path, byAgent, accept string) ([]byte, error) {
	switch {
	case s.through != nil:
		return s.onNode(get(ctx, s.through, onSocket, byAgent, accept))
	case s.Ztunnel != "":
		return get(ctx, http.DefaultClient, s.Ztunnel, path, accept)
	case s.Agent != "":
		return get(ctx, http.DefaultClient, s.Agent, byAgent, accept)
	}
	return get(ctx, socket(s.RunDir, "ztunnel", "admin"), onSocket, path, accept)
}

// errNoAgent: only ztunnel can be asked.
var errNoAgent = errors.New("no agent to ask (--agent is not given)")

func (s *Sources) agent(ctx context.Context, path string) ([]byte, error) {
	switch {
	case s.through != nil:
		return s.onNode(get(ctx, s.through, onSocket, path, ""))
	case s.Agent != "":
		return get(ctx, http.DefaultClient, s.Agent, path, "")
	case s.Ztunnel != "":
		return nil, errNoAgent
	}
	return get(ctx, socket(s.RunDir, "agent", "debug"), onSocket, path, "")
}

func (s *Sources) onNode(b []byte, err error) ([]byte, error) {
	if err != nil {
		err = fmt.Errorf("node %s: %w", s.node, err)
	}
	return b, err
}

// dump is what ztunnel knows.
func (s *Sources) dump(ctx context.Context) (d dump.Ztunnel, err error) {
	b, err := s.ztunnel(ctx, "/config_dump", "/debug/ztunnel/config_dump", "")
	if err == nil {
		err = json.Unmarshal(b, &d)
	}
	return d, err
}

func (s *Sources) agentJSON(ctx context.Context, path string, into any) error {
	b, err := s.agent(ctx, path)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	return err
}

func socket(dir, part, what string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return broker.DialNewest(ctx, dir, part, what)
		},
	}}
}

func get(ctx context.Context, c *http.Client, base, path, accept string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+path, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", accept)
	answer, err := c.Do(r)
	if err != nil {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err
		}
		if base == onSocket {
			return nil, err
		}
		return nil, fmt.Errorf("ask %s: %w", base, err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, mostBytes))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(b)))
		if len(b) == 0 {
			err = errors.New(answer.Status)
		}
	}
	return b, err
}

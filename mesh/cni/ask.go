// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/warren-mesh/warren/mesh/broker"
)

// ErrNoAgent means that no agent of the node answers now.
var ErrNoAgent = errors.New("no agent answers")

// SocketPart is the last part of the name of the agent's socket for the plugin.
const SocketPart = "cni"

// askAgain is the pause before an agent is looked for again.
const askAgain = 50 * time.Millisecond

// Ask puts a question to the node's agent, the newest that listens in the directory, and waits for the answer until
// ctx ends. An agent that goes away before it answered is asked again, or its successor is: all questions may be put
// twice. While there is no agent it is looked for until patience is over; then the error is ErrNoAgent.
func Ask(ctx context.Context, dir string, r Request, netns *os.File, patience time.Duration) (Reply, error) {
	give := time.Now().Add(patience)
	for {
		reply, err := askOnce(ctx, dir, r, netns)
		if err == nil || ctx.Err() != nil || errors.Is(err, ErrVersion) || errors.Is(err, ErrMalform) {
			return reply, err
		}
		if time.Now().After(give) {
			return Reply{}, fmt.Errorf("%w: %w", ErrNoAgent, err)
		}
		select {
		case <-ctx.Done():
			return Reply{}, fmt.Errorf("%w: %w", ErrNoAgent, err)
		case <-time.After(askAgain):
		}
	}
}

// askOnce tries the sockets there are, newest first.
func askOnce(ctx context.Context, dir string, r Request, netns *os.File) (Reply, error) {
	paths, err := broker.SocketPaths(dir, "agent", SocketPart)
	if err != nil {
		return Reply{}, err
	}
	err = fmt.Errorf("no socket of an agent in %s", dir)
	for _, p := range paths {
		var c net.Conn
		if c, err = (&net.Dialer{}).DialContext(ctx, "unixpacket", p); err != nil {
			continue
		}
		uc := c.(*net.UnixConn)
		// ztunnel's group may make sockets in the same directory, and must not say which pods start.
		if err = Trust(uc); err != nil {
			uc.Close()
			err = fmt.Errorf("%s: %w", p, err)
			continue
		}
		return askConn(ctx, uc, r, netns)
	}
	return Reply{}, err
}

func askConn(ctx context.Context, c *net.UnixConn, r Request, netns *os.File) (Reply, error) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	r.Version = Version
	if until, ok := ctx.Deadline(); ok {
		// The agent is to answer, with what it knows of the cause, before the asker gives up.
		r.WaitMillis = max(1, (time.Until(until) * 9 / 10).Milliseconds())
	}
	if err := Send(c, r, netns); err != nil {
		return Reply{}, err
	}
	var reply Reply
	files, err := Receive(c, &reply)
	CloseAll(files)
	if err != nil {
		return Reply{}, err
	}
	return reply, nil
}

// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// echo serves on a pod: it first says whom it sees, "peer ADDR\n", then sends back what it gets.
func echo(t *testing.T, p *Pod, address string) *Listener {
	t.Helper()
	l, err := p.Listen("tcp", address)
	if err != nil {
		t.Fatalf("listen in %s: %v", p, err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintf(c, "peer %s\n", c.RemoteAddr())
				_, _ = io.Copy(c, c)
				_ = c.(*net.TCPConn).CloseWrite()
			}()
		}
	}()
	return l
}

// talk dials, sends a line, and returns the peer that the server saw; it checks that the line comes back.
func talk(t *testing.T, p *Pod, network, address, line string) (local, seen string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := p.Dial(ctx, network, address)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(c, "%s\n", line); err != nil {
		return "", "", err
	}
	// After a reset there is nothing left to shut down; reading tells what it was.
	if err := c.(*net.TCPConn).CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
		return "", "", err
	}
	b, err := io.ReadAll(c)
	if err != nil {
		return "", "", err
	}
	var got string
	if _, err := fmt.Sscanf(string(b), "peer %s\n%s\n", &seen, &got); err != nil || got != line {
		return "", "", fmt.Errorf("answer %q, want a peer line and %q", b, line)
	}
	return c.LocalAddr().String(), seen, nil
}

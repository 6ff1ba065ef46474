// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// maxFile keeps a file's bytes, as base64, below a message's bound.
const maxFile = 48000

// giveSockets answers one request. It makes no more than the pod's credits allow.
func (z *ztunnel) giveSockets(r wire.SocketsRequest) error {
	if r.Count < 1 || r.Count > wire.MaxFDs {
		return fmt.Errorf("serve ztunnel: %w (asked for %d sockets)", wire.ErrMalform, r.Count)
	}
	answer := wire.Sockets{Pod: r.Pod, Asked: r.Count}
	sp := z.own
	if r.Pod != "" {
		sp = z.b.spaces.get(r.Pod)
	}
	if sp == nil {
		answer.Error, answer.RetryAfter = "no such pod", 50
		return z.conn.Send(wire.TypeSockets, answer)
	}
	granted, retry := sp.credits.take(r.Count, time.Now())
	var fds []int
	err := z.visitor.do(sp.ns, func() {
		for range granted {
			fd, ipv4, err := z.dialSocket()
			if err != nil {
				answer.Error = err.Error()
				return
			}
			answer.IPv4Only = ipv4
			fds = append(fds, fd)
		}
	})
	defer wire.CloseFDs(fds)
	if err != nil {
		answer.Error = err.Error()
	}
	if answer.Error != "" {
		z.b.log.Error("make dial sockets", "uid", r.Pod, "err", answer.Error)
		retry = max(retry, 50*time.Millisecond)
	}
	sp.count(r.Count, len(fds))
	answer.Given = len(fds)
	if answer.Given < answer.Asked {
		answer.RetryAfter = max(retry.Milliseconds(), 1)
	}
	return z.conn.Send(wire.TypeSockets, answer, fds...)
}

// dialSocket is called on a thread in the namespace.
func (z *ztunnel) dialSocket() (fd int, ipv4 bool, err error) {
	fd, ipv4, err = tcpSocket()
	if err != nil {
		return -1, false, fmt.Errorf("make dial socket: %w", err)
	}
	if err := z.b.dp.Exempt(fd); err != nil {
		unix.Close(fd)
		return -1, false, fmt.Errorf("exempt dial socket: %w", err)
	}
	return fd, ipv4, nil
}

// giveNamed answers a request for a unix connection or a file. Both are quick and local.
func (z *ztunnel) giveNamed(ctx context.Context, t wire.Type, r wire.NameRequest) error {
	granted, _ := z.named.take(1, time.Now())
	switch {
	case t == wire.TypeFileRequest && granted == 0:
		return z.conn.Send(wire.TypeFile, wire.NameReply{ID: r.ID, Error: errTooOften})
	case t == wire.TypeFileRequest:
		answer := wire.NameReply{ID: r.ID}
		data, err := z.b.readFile(r.Name)
		if answer.Data = data; err != nil {
			answer.Error, answer.Missing = err.Error(), errors.Is(err, fs.ErrNotExist)
		}
		return z.conn.Send(wire.TypeFile, answer)
	case granted == 0:
		return z.conn.Send(wire.TypeUnix, wire.NameReply{ID: r.ID, Error: errTooOften})
	}
	return z.giveUnix(ctx, r)
}

const errTooOften = "asked too often"

func (z *ztunnel) giveUnix(ctx context.Context, r wire.NameRequest) error {
	c, err := z.b.dialAgent(ctx, r.Name)
	if err != nil {
		return z.conn.Send(wire.TypeUnix, wire.NameReply{ID: r.ID, Error: err.Error()})
	}
	defer c.Close()
	rc, err := c.SyscallConn()
	if err != nil {
		return z.conn.Send(wire.TypeUnix, wire.NameReply{ID: r.ID, Error: err.Error()})
	}
	var serr error
	if err := rc.Control(func(fd uintptr) {
		serr = z.conn.Send(wire.TypeUnix, wire.NameReply{ID: r.ID}, int(fd))
	}); err != nil {
		return err
	}
	return serr
}

// readFile returns a file of the fixed list.
func (b *Broker) readFile(name string) ([]byte, error) {
	path, ok := b.cfg.Files[name]
	if !ok {
		return nil, fmt.Errorf("no file is named %q here (see the broker's --file): %w", name, fs.ErrNotExist)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("file %s is longer than %d bytes", path, maxFile)
	}
	return data, nil
}

// dialAgent connects to the newest of the agent's sockets of that name that answers.
func (b *Broker) dialAgent(ctx context.Context, name string) (*net.UnixConn, error) {
	network := map[string]string{"zds": "unixpacket", "wds": "unix"}[name]
	if network == "" {
		return nil, fmt.Errorf("no unix socket is named %q", name)
	}
	paths, err := wire.SocketPaths(b.cfg.RunDir, "agent", name)
	if err != nil {
		return nil, err
	}
	err = fmt.Errorf("no agent listens in %s", b.cfg.RunDir)
	for _, p := range paths {
		var c net.Conn
		d := net.Dialer{Timeout: time.Second}
		if c, err = d.DialContext(ctx, network, p); err == nil {
			return c.(*net.UnixConn), nil
		}
	}
	return nil, err
}

// SPDX-License-Identifier: Apache-2.0

package zds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

var (
	errSilent  = errors.New("ztunnel did not answer in time")
	errUnasked = errors.New("ztunnel answered what it was not asked")
)

// peer is one connected ztunnel, and what it has been told. Used by one goroutine, apart from wake and
// packets.
type peer struct {
	server  *Server
	conn    *net.UnixConn
	version Version
	wake    chan struct{} // something changed, buffers one
	packets chan []byte   // what the ztunnel says; closed after lost is set
	lost    error

	told     map[string]told // by uid
	snapshot bool            // snapshot_sent went out
}

// told is what a ztunnel knows of a pod.
type told struct {
	serial uint64
	retry  time.Time // when to say it again, because the ztunnel failed; zero when it didn't
}

func newPeer(s *Server, c *net.UnixConn) *peer {
	return &peer{
		server: s, conn: c, wake: make(chan struct{}, 1), packets: make(chan []byte), told: make(map[string]told),
	}
}

// receive hands on the ztunnel's packets until it goes or ctx ends.
func (p *peer) receive(ctx context.Context) {
	defer close(p.packets)
	for {
		b, files, err := readPacket(p.conn)
		if err == nil && len(files) > 0 { // a ztunnel has none to send
			closeAll(files)
			err = ErrDescriptors
		}
		if err != nil {
			p.lost = err
			return
		}
		select {
		case p.packets <- b:
		case <-ctx.Done():
			p.lost = ctx.Err()
			return
		}
	}
}

// hear returns the ztunnel's next packet.
func (p *peer) hear(ctx context.Context) ([]byte, error) {
	timeout := time.NewTimer(answerTimeout)
	defer timeout.Stop()
	select {
	case b, ok := <-p.packets:
		if !ok {
			return nil, p.lost
		}
		return b, nil
	case <-timeout.C:
		return nil, errSilent
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// run keeps the ztunnel told until it goes.
func (p *peer) run(ctx context.Context) error {
	hello, err := p.hear(ctx)
	if err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	if p.version, err = decodeHello(hello); err != nil {
		return err
	}
	if p.version == V1 && p.server.cfg.OpenNetns == nil {
		return errors.New("ztunnel wants network namespaces, this agent has none to give")
	}
	p.server.cfg.Log.Info("ztunnel connected", "version", int32(p.version))
	p.server.join(p)
	defer p.server.leave(p)
	for {
		r, retry := p.server.next(p)
		if r.kind != 0 {
			err = p.tell(ctx, r)
		} else {
			err = p.idle(ctx, retry)
		}
		if err != nil {
			return err
		}
	}
}

// idle waits until there may be something to tell.
func (p *peer) idle(ctx context.Context, retry time.Time) error {
	var timer <-chan time.Time
	if !retry.IsZero() {
		timer = time.After(time.Until(retry))
	}
	select {
	case <-p.wake:
		return nil
	case <-timer:
		return nil
	case _, ok := <-p.packets:
		if ok {
			return errUnasked
		}
		if errors.Is(p.lost, io.EOF) {
			return io.EOF
		}
		return fmt.Errorf("read ack: %w", p.lost)
	case <-ctx.Done():
		return ctx.Err()
	}
}

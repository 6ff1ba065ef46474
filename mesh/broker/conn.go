// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Conn carries messages over a SOCK_SEQPACKET connection. Send may be called by several goroutines; Recv by
// one at a time.
type Conn struct {
	uc   *net.UnixConn
	send sync.Mutex
	buf  []byte
	oob  []byte
}

// NewConn wraps a connection of network "unixpacket".
func NewConn(uc *net.UnixConn) *Conn {
	return &Conn{uc: uc, buf: make([]byte, headerSize+MaxBody+1), oob: make([]byte, unix.CmsgSpace(4*MaxFDs))}
}

// Dial connects to a SOCK_SEQPACKET socket.
func Dial(ctx context.Context, path string) (*Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixpacket", path)
	if err != nil {
		return nil, fmt.Errorf("dial broker peer: %w", err)
	}
	return NewConn(c.(*net.UnixConn)), nil
}

// Close closes the connection; a Recv in progress ends.
func (c *Conn) Close() error { return c.uc.Close() }

// Peer returns who made the other end, as the kernel recorded it: for a dialled connection, who listened.
func (c *Conn) Peer() (*unix.Ucred, error) {
	rc, err := c.uc.SyscallConn()
	if err != nil {
		return nil, err
	}
	var u *unix.Ucred
	var uerr error
	if err := rc.Control(func(fd uintptr) {
		u, uerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return u, uerr
}

// Send sends one message with the descriptors, which stay the caller's. A peer that leaves its messages unread
// for WriteTimeout makes Send fail with os.ErrDeadlineExceeded: the kernel never blocks us for it (the socket
// is non-blocking), and the connection should be given up.
func (c *Conn) Send(t Type, body any, fds ...int) error {
	b, err := Encode(t, body)
	if err != nil {
		return err
	}
	if len(fds) > MaxFDs {
		return fmt.Errorf("send broker message %d: %w (%d descriptors)", t, ErrTooLong, len(fds))
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	c.send.Lock()
	defer c.send.Unlock()
	if err := c.uc.SetWriteDeadline(time.Now().Add(WriteTimeout)); err != nil {
		return fmt.Errorf("send broker message %d: %w", t, err)
	}
	_, _, err = c.uc.WriteMsgUnix(b, oob, nil)
	runtime.KeepAlive(fds)
	if err != nil {
		return fmt.Errorf("send broker message %d: %w", t, err)
	}
	return nil
}

// RecvWithin is Recv that waits no longer than d, and then fails with os.ErrDeadlineExceeded.
func (c *Conn) RecvWithin(d time.Duration) (Message, []int, error) {
	if err := c.uc.SetReadDeadline(time.Now().Add(d)); err != nil {
		return Message{}, nil, fmt.Errorf("receive broker message: %w", err)
	}
	m, fds, err := c.Recv()
	if err != nil {
		return m, fds, err
	}
	if err := c.uc.SetReadDeadline(time.Time{}); err != nil {
		CloseFDs(fds)
		return Message{}, nil, fmt.Errorf("receive broker message: %w", err)
	}
	return m, fds, nil
}

// Recv waits for one message. The descriptors become the caller's; they are closed on exec. The body is valid
// until the next Recv. It returns io.EOF when the peer closed. With an error that is ErrTruncate the message is
// whole, but descriptors were lost and the rest closed; after any other error the connection is of no more use.
func (c *Conn) Recv() (Message, []int, error) {
	n, on, flags, _, err := c.uc.ReadMsgUnix(c.buf, c.oob)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) {
			return Message{}, nil, io.EOF
		}
		return Message{}, nil, fmt.Errorf("receive broker message: %w", err)
	}
	fds, err := parseRights(c.oob[:on])
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err == nil && flags&unix.MSG_TRUNC != 0 {
		err = fmt.Errorf("receive broker message: %w", ErrTooLong)
	}
	var m Message
	if err == nil {
		m, err = Decode(c.buf[:n])
	}
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = fmt.Errorf("receive broker message %d: %w", m.Type, ErrTruncate)
	}
	if err != nil {
		CloseFDs(fds)
		return m, nil, err
	}
	return m, fds, nil
}

// parseRights returns the descriptors in a control buffer. On an error the ones read so far are returned with it.
func parseRights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("receive broker message: %w: %w", ErrMalform, err)
	}
	var fds []int
	for i := range msgs {
		if msgs[i].Header.Level != unix.SOL_SOCKET || msgs[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		f, err := unix.ParseUnixRights(&msgs[i])
		fds = append(fds, f...)
		if err != nil {
			return fds, fmt.Errorf("receive broker message: %w: %w", ErrMalform, err)
		}
	}
	return fds, nil
}

// CloseFDs closes descriptors that came with a message nobody wants.
func CloseFDs(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

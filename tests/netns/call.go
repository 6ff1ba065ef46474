// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// request asks the process inside a sandbox for something. One datagram, JSON.
type request struct {
	ID      uint64
	Op      string            // dial, listen, packet, socket, mount, sysctl, mkdir, hostname, cancel
	Network string            `json:",omitempty"` // dial, listen
	Address string            `json:",omitempty"` // dial, listen: host:port
	Dial    *DialOptions      `json:",omitempty"`
	Socket  [3]int            `json:",omitempty"` // socket: domain, type, protocol
	Mount   *mount            `json:",omitempty"`
	Sysctls map[string]string `json:",omitempty"` // path below /proc/sys to value
	Path    string            `json:",omitempty"` // mkdir, hostname
}

// mount is the arguments of mount(2).
type mount struct {
	Source, Target, Type, Data string
	Flags                      uintptr
}

// DialOptions change how a pod's process connects.
type DialOptions struct {
	Local     string        `json:",omitempty"` // bind to this ip:port first
	Timeout   time.Duration `json:",omitempty"` // default 10 s
	Mark      int           `json:",omitempty"` // SO_MARK
	Device    string        `json:",omitempty"` // SO_BINDTODEVICE
	Multipath bool          `json:",omitempty"` // MPTCP
	ReuseAddr bool          `json:",omitempty"` // SO_REUSEADDR before bind
}

// reply answers the request of the same ID; file descriptors travel beside it.
type reply struct {
	ID      uint64
	Err     string `json:",omitempty"`
	Op      string `json:",omitempty"` // of the net.OpError
	Syscall string `json:",omitempty"`
	Errno   int    `json:",omitempty"`
	Timeout bool   `json:",omitempty"`
}

// failure describes err so that error can rebuild what errors.Is needs: the errno, or that it was a timeout.
func failure(id uint64, err error) reply {
	r := reply{ID: id, Err: err.Error()}
	var op *net.OpError
	if errors.As(err, &op) {
		r.Op = op.Op
	}
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		r.Syscall = sys.Syscall
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		r.Errno = int(errno)
	}
	var ne net.Error
	r.Timeout = errors.As(err, &ne) && ne.Timeout() && r.Errno == 0
	return r
}

// error rebuilds the failure for the caller, as package net would have returned it.
func (r reply) error(network string) error {
	var cause error
	switch {
	case r.Err == "":
		return nil
	case r.Errno != 0 && r.Syscall != "":
		cause = os.NewSyscallError(r.Syscall, syscall.Errno(r.Errno))
	case r.Errno != 0:
		cause = syscall.Errno(r.Errno)
	case r.Timeout:
		cause = os.ErrDeadlineExceeded
	default:
		return errors.New(r.Err)
	}
	if r.Op == "" {
		return fmt.Errorf("%s: %w", r.Err, cause)
	}
	return &net.OpError{Op: r.Op, Net: network, Err: cause}
}

// maxDatagram bounds one request or reply.
const maxDatagram = 64 << 10

// send writes one datagram of JSON with file descriptors beside it.
func send(c *net.UnixConn, v any, fds ...int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = syscall.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(b, rights, nil)
	return err
}

// receive reads one datagram into v and returns the file descriptors that came with it, close-on-exec.
func receive(c *net.UnixConn, v any) ([]int, error) {
	b, oob := make([]byte, maxDatagram), make([]byte, syscall.CmsgSpace(4*16))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, net.ErrClosed // SEQPACKET tells the end by an empty datagram
	}
	if flags&(syscall.MSG_TRUNC|syscall.MSG_CTRUNC) != 0 {
		return nil, fmt.Errorf("receive: datagram cut off (flags %#x)", flags)
	}
	var fds []int
	messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		got, err := syscall.ParseUnixRights(&m)
		if err != nil {
			return nil, err
		}
		fds = append(fds, got...)
	}
	return fds, json.Unmarshal(b[:n], v)
}

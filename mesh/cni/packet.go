// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Errors of the codec; match them with errors.Is.
var (
	ErrVersion = errors.New("unknown protocol version")
	ErrTooLong = errors.New("message too long")
	ErrMalform = errors.New("malformed message")
)

// Send sends one message as one packet of a SOCK_SEQPACKET connection, with at most one file.
func Send(c *net.UnixConn, message any, file *os.File) error {
	b, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("send CNI message: %w", err)
	}
	if len(b) > MaxPacket {
		return fmt.Errorf("send CNI message: %w (%d bytes)", ErrTooLong, len(b))
	}
	if file == nil {
		_, err = c.Write(b)
	} else {
		_, _, err = c.WriteMsgUnix(b, unix.UnixRights(int(file.Fd())), nil)
		runtime.KeepAlive(file)
	}
	if err != nil {
		return fmt.Errorf("send CNI message: %w", err)
	}
	return nil
}

// Receive reads one packet into message, and returns the files that came with it, which are the caller's and closed on
// exec. With an error there are none. It returns io.EOF when the peer closed.
func Receive(c *net.UnixConn, message any) ([]*os.File, error) {
	b, oob := make([]byte, MaxPacket+1), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, on, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, fmt.Errorf("receive CNI message: %w", err)
	}
	files, err := filesOf(oob[:on])
	switch {
	case err != nil:
	case n == 0 && on == 0:
		return nil, io.EOF
	case flags&unix.MSG_CTRUNC != 0:
		err = fmt.Errorf("%w: more than %d files with it", ErrMalform, maxFiles)
	case flags&unix.MSG_TRUNC != 0 || n > MaxPacket:
		err = fmt.Errorf("%w: more than %d bytes", ErrTooLong, MaxPacket)
	default:
		err = Decode(b[:n], message)
	}
	if err != nil {
		CloseAll(files)
		return nil, fmt.Errorf("receive CNI message: %w", err)
	}
	return files, nil
}

// maxFiles is one more than any message carries, so that too many are seen to be.
const maxFiles = 2

// Decode reads a message: the version first, so that a message of another version is told from a wrong one. Unknown
// fields, and bytes behind the message, are errors.
func Decode(b []byte, message any) error {
	var head struct{ Version int }
	if err := json.Unmarshal(b, &head); err != nil {
		return fmt.Errorf("%w: %w", ErrMalform, err)
	}
	if head.Version != Version {
		return fmt.Errorf("%w %d (this is %d: plugin and agent are of different releases)", ErrVersion, head.Version, Version)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(message); err != nil {
		return fmt.Errorf("%w: %w", ErrMalform, err)
	}
	return nil
}

func filesOf(oob []byte) (files []*os.File, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalform, err)
	}
	for i := range messages {
		if messages[i].Header.Level != unix.SOL_SOCKET || messages[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, perr := unix.ParseUnixRights(&messages[i])
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
		if perr != nil {
			err = fmt.Errorf("%w: %w", ErrMalform, perr)
		}
	}
	return files, err
}

// CloseAll closes files that nobody wants.
func CloseAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Peer returns who made the other end, as the kernel recorded it.
func Peer(c *net.UnixConn) (*unix.Ucred, error) {
	rc, err := c.SyscallConn()
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
	return u, os.NewSyscallError("getsockopt", uerr)
}

// Trust refuses a peer that is neither root nor this process's own user.
func Trust(c *net.UnixConn) error {
	peer, err := Peer(c)
	if err == nil && peer.Uid != 0 && peer.Uid != uint32(os.Geteuid()) {
		err = fmt.Errorf("refused: process %d of user %d (only root takes part)", peer.Pid, peer.Uid)
	}
	return err
}

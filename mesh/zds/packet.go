// SPDX-License-Identifier: Apache-2.0

package zds

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

var (
	// ErrTooLong: a packet, or a message to send, is longer than MaxPacket.
	ErrTooLong = errors.New("packet is longer than 1024 bytes")
	// ErrDescriptors: a packet came with a number of file descriptors other than its kind has.
	ErrDescriptors = errors.New("unexpected number of file descriptors")
)

// maxFiles bounds what one packet may carry here; the kernel tells of more, and closes them.
const maxFiles = 2

// readPacket reads one packet and the file descriptors beside it, which are the caller's to close. io.EOF
// means that the peer has gone.
func readPacket(c *net.UnixConn) ([]byte, []*os.File, error) {
	buf := make([]byte, MaxPacket+1)
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, nil, err
	}
	files, err := parseFiles(oob[:oobn])
	switch {
	case err != nil:
	case flags&unix.MSG_CTRUNC != 0:
		err = ErrDescriptors
	case flags&unix.MSG_TRUNC != 0 || n > MaxPacket:
		err = ErrTooLong
	}
	if err != nil {
		closeAll(files)
		return nil, nil, err
	}
	return buf[:n], files, nil
}

// parseFiles takes the file descriptors out of control messages; they are close-on-exec already.
func parseFiles(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parse control messages: %w", err)
	}
	var files []*os.File
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("parse file descriptors: %w", err)
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "netns"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// writePacket sends one message, with a file descriptor where f isn't nil; f stays the caller's.
func writePacket(c *net.UnixConn, m proto.Message, f *os.File) error {
	b, err := marshal(m)
	if err != nil {
		return err
	}
	var oob []byte
	if f != nil {
		oob = unix.UnixRights(int(f.Fd()))
	}
	_, _, err = c.WriteMsgUnix(b, oob, nil)
	return err
}

func marshal(m proto.Message) ([]byte, error) {
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	if len(b) > MaxPacket {
		return nil, ErrTooLong
	}
	return b, nil
}

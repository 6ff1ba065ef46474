// SPDX-License-Identifier: Apache-2.0

package packets

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Tap sees every frame that comes by, whatever is in it. For one goroutine.
type Tap struct{ socket *os.File }

// NewTap reads a packet socket (AF_PACKET, SOCK_RAW), which it owns from now on.
func NewTap(f *os.File) (*Tap, error) {
	fd := int(f.Fd())
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL)})
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL)})
	}
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("set up packet socket", err), f.Close())
	}
	return &Tap{f}, nil
}

// TapIn sees the frames of a network namespace, given by its file, whose packets come from one of the addresses. What
// else goes over its links takes no room, and so pushes nothing out while nobody reads.
func TapIn(namespace string, sources ...netip.Addr) (*Tap, error) {
	f, err := open(namespace)
	if err != nil {
		return nil, err
	}
	if err := filter(int(f.Fd()), sources); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return NewTap(f)
}

// Until reads frames until one holds last, and says which of the others came by before it.
func (t *Tap) Until(within time.Duration, last []byte, others ...[]byte) (seen [][]byte, err error) {
	b := make([]byte, 1<<17)
	for end := time.Now().Add(within); time.Now().Before(end); {
		n, err := unix.Read(int(t.socket.Fd()), b)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, os.NewSyscallError("read", err)
		}
		for _, o := range others {
			if bytes.Contains(b[:n], o) {
				seen = append(seen, o)
			}
		}
		if bytes.Contains(b[:n], last) {
			return seen, nil
		}
	}
	return seen, fmt.Errorf("after %v: no frame with %q", within, last)
}

// Close ends it.
func (t *Tap) Close() error { return t.socket.Close() }

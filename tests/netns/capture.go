// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// captureLimit bounds the payload that a capture keeps; what comes later is only counted.
const captureLimit = 256 << 20

// Capture is what goes over the wire between the nodes: every TCP segment, seen once. Safe for concurrent use.
type Capture struct {
	socket *os.File
	done   chan struct{}

	mu       sync.Mutex
	stopped  bool
	flows    map[Flow]*stream
	kept     int
	overflow int
	foreign  int // frames that are no TCP
	err      error
}

// Capture starts to record the wire, and stops with the mesh at the latest.
func (m *Mesh) Capture() *Capture {
	m.t.Helper()
	c, err := m.wire.capture()
	if err != nil {
		m.t.Fatalf("capture packets: %v", err)
	}
	m.t.Cleanup(c.Stop)
	return c
}

// capture opens a packet socket over all ports of the bridge.
func (w *wire) capture() (*Capture, error) {
	f, err := w.sandbox.socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		return nil, err
	}
	return newCapture(f)
}

// newCapture reads a packet socket. Each frame is seen where it comes in.
func newCapture(f *os.File) (*Capture, error) {
	fd := int(f.Fd())
	// A burst of full-size segments must fit: the reader shares two CPUs with everything else.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
		f.Close()
		return nil, os.NewSyscallError("setsockopt SO_RCVBUFFORCE", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
		f.Close()
		return nil, os.NewSyscallError("setsockopt PACKET_IGNORE_OUTGOING", err)
	}
	c := &Capture{socket: f, done: make(chan struct{}), flows: map[Flow]*stream{}}
	if err := unix.SetNonblock(fd, true); err != nil {
		f.Close()
		return nil, err
	}
	go c.read(fd)
	return c, nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// read takes frames until Stop. GSO makes frames of up to 64 KiB on a veth.
func (c *Capture) read(fd int) {
	defer close(c.done)
	b := make([]byte, 1<<17)
	for {
		n, _, err := unix.Recvfrom(fd, b, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if !c.wait(fd) {
				return
			}
			continue
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN):
			continue
		case err != nil:
			c.fail(err)
			return
		case n > len(b):
			c.fail(fmt.Errorf("frame of %d bytes cut off", n))
			continue
		}
		c.frame(b[:n])
	}
}

// wait waits for more frames; false when the capture was stopped and nothing is left to read.
func (c *Capture) wait(fd int) bool {
	c.mu.Lock()
	stopped := c.stopped
	c.mu.Unlock()
	if stopped {
		return false
	}
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20)
	return true
}

func (c *Capture) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = errors.Join(c.err, err)
}

func (c *Capture) frame(b []byte) {
	s, ok := parseFrame(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ok {
		c.foreign++
		return
	}
	st := c.flows[s.flow]
	if st == nil {
		st = &stream{started: time.Now()}
		c.flows[s.flow] = st
	}
	if c.kept+len(s.payload) > captureLimit {
		c.overflow += len(s.payload)
		return
	}
	c.kept += len(s.payload)
	st.add(s)
}

// Stop ends the recording, after what the kernel has already taken was read. Calling it again does nothing.
func (c *Capture) Stop() {
	c.mu.Lock()
	first := !c.stopped
	c.stopped = true
	c.mu.Unlock()
	<-c.done
	if !first {
		return
	}
	// The kernel's own count of frames that found no room.
	if st, err := unix.GetsockoptTpacketStats(int(c.socket.Fd()), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil && st.Drops > 0 {
		c.fail(fmt.Errorf("the kernel dropped %d of %d frames", st.Drops, st.Packets))
	}
	c.socket.Close()
}

// Err says whether anything is missing from the recording.
func (c *Capture) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.overflow > 0 {
		return errors.Join(c.err, fmt.Errorf("%d bytes beyond the limit of %d were not kept", c.overflow, captureLimit))
	}
	return c.err
}

// SPDX-License-Identifier: Apache-2.0

package packets

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// captureLimit bounds the payload that a capture keeps; what comes later is only counted.
const captureLimit = 1 << 30

// Capture is what goes over the links of a network namespace: every TCP segment. Safe for concurrent use.
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

// In starts to record a network namespace, given by its file: every frame that comes in by any of its links, or only those
// whose packets come from one of the addresses.
func In(namespace string, sources ...netip.Addr) (*Capture, error) {
	f, err := open(namespace)
	if err != nil {
		return nil, err
	}
	if len(sources) > 0 {
		if err := filter(int(f.Fd()), sources); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return New(f)
}

// open opens a packet socket in a network namespace.
func open(namespace string) (*os.File, error) {
	type opened struct {
		fd  int
		err error
	}
	done := make(chan opened)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine, and the namespace it joined with it
		fd, err := socketIn(namespace)
		done <- opened{fd, err}
	}()
	o := <-done
	if o.err != nil {
		return nil, fmt.Errorf("open a packet socket in %s: %w", namespace, o.err)
	}
	return os.NewFile(uintptr(o.fd), namespace), nil
}

// socketIn opens a packet socket in a network namespace, which the calling thread joins for good.
func socketIn(namespace string) (int, error) {
	ns, err := os.Open(namespace)
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return 0, os.NewSyscallError("setns", err)
	}
	// Of no protocol yet: nothing comes before there is room for it.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return fd, os.NewSyscallError("socket", err)
}

// New reads a packet socket (AF_PACKET, SOCK_RAW), which it owns from now on. Each frame is seen where it comes in.
func New(f *os.File) (*Capture, error) {
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
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL)}); err != nil {
		f.Close()
		return nil, os.NewSyscallError("bind", err)
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

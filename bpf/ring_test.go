// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The little of io_uring's ABI (linux/io_uring.h) that one connect needs.
type ringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFd uint32
	resv                                                                   [3]uint32
	sq, cq                                                                 ringOffsets
}

// ringOffsets: for the completion ring, array is the offset of the completions.
type ringOffsets struct {
	head, tail, mask, entries, flags, dropped, array, resv uint32
	userAddr                                               uint64
}

type ringEntry struct {
	opcode, flags uint8
	ioprio        uint16
	fd            int32
	off, addr     uint64
	_             [40]byte
}

const (
	ringOpConnect  = 16
	ringGetEvents  = 1
	ringWakeUp     = 2
	ringPollThread = 2 // IORING_SETUP_SQPOLL
	ringOffEntries = 0x10000000
)

var errNoRing = errors.New("io_uring is switched off on this machine (sysctl kernel.io_uring_disabled)")

// connectRing connects through io_uring.
func connectRing(fd, family int, dst netip.AddrPort) error { return ringConnect(fd, family, dst, 0, 0) }

// connectRingThread has a thread of the kernel's do it.
func connectRingThread(fd, family int, dst netip.AddrPort) error {
	return ringConnect(fd, family, dst, ringPollThread, ringWakeUp)
}

func ringConnect(fd, family int, dst netip.AddrPort, setup uint32, enter uintptr) error {
	p := ringParams{flags: setup}
	ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&p)), 0)
	if errno == unix.ENOSYS || errno == unix.EPERM {
		return errNoRing
	}
	if errno != 0 {
		return fmt.Errorf("io_uring_setup: %w", errno)
	}
	defer unix.Close(int(ring))
	// Both rings share one mapping since Linux 5.4.
	rings, err := unix.Mmap(int(ring), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map rings: %w", err)
	}
	defer unix.Munmap(rings)
	entries, err := unix.Mmap(int(ring), ringOffEntries, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map entries: %w", err)
	}
	defer unix.Munmap(entries)

	at := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&rings[off])) }
	raw := rawSockaddr(family, dst)
	*(*ringEntry)(unsafe.Pointer(&entries[0])) = ringEntry{
		opcode: ringOpConnect, fd: int32(fd), off: uint64(len(raw)), addr: uint64(uintptr(unsafe.Pointer(&raw[0]))),
	}
	*at(p.sq.array) = 0
	atomic.StoreUint32(at(p.sq.tail), 1)
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, 1, 1, ringGetEvents|enter, 0, 0); errno != 0 {
		return fmt.Errorf("io_uring_enter: %w", errno)
	}
	// A completion: user data (8 bytes), result (4), flags (4).
	if res := *(*int32)(unsafe.Pointer(&rings[p.cq.array+8])); res < 0 {
		return unix.Errno(-res)
	}
	return nil
}

func rawSockaddr(family int, dst netip.AddrPort) []byte {
	port := dst.Port()
	b := []byte{byte(family), 0, byte(port >> 8), byte(port)}
	if family == unix.AF_INET {
		a := dst.Addr().As4()
		return append(append(b, a[:]...), make([]byte, 8)...)
	}
	a := dst.Addr().As16()
	return append(append(append(b, make([]byte, 4)...), a[:]...), make([]byte, 4)...)
}

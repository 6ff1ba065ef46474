// SPDX-License-Identifier: Apache-2.0

package escape

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a connect by io_uring needs of linux/io_uring.h.
const (
	ringOpConnect    = 16
	ringKernelThread = 2          // IORING_SETUP_SQPOLL, and IORING_ENTER_SQ_WAKEUP
	ringEntriesAt    = 0x10000000 // IORING_OFF_SQES
)

type ringSetup struct {
	submitEntries, completeEntries, flags, threadCPU, threadIdle, features, workers uint32
	_                                                                               [3]uint32
	submit, complete                                                                struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32 // of completions, array is where they are
		_                                                   uint64
	}
}

type ringRequest struct {
	opcode, flags uint8
	priority      uint16
	fd            int32
	length, addr  uint64
	_             [40]byte
}

// ringConnect connects by io_uring; flags are those of its set-up.
func ringConnect(fd, family int, to netip.AddrPort, flags uint32) error {
	setup := ringSetup{flags: flags, threadIdle: 2000}
	ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&setup)), 0)
	if errno != 0 {
		return fmt.Errorf("io_uring_setup: %w", errno)
	}
	defer unix.Close(int(ring))
	rings, err := unix.Mmap(int(ring), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("map the rings: %w", err)
	}
	defer unix.Munmap(rings)
	requests, err := unix.Mmap(int(ring), ringEntriesAt, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("map the requests: %w", err)
	}
	defer unix.Munmap(requests)

	word := func(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&rings[offset])) }
	address := rawAddress(family, to)
	*(*ringRequest)(unsafe.Pointer(&requests[0])) = ringRequest{
		opcode: ringOpConnect, fd: int32(fd), length: uint64(len(address)), addr: uint64(uintptr(unsafe.Pointer(&address[0]))),
	}
	*word(setup.submit.array) = 0
	atomic.StoreUint32(word(setup.submit.tail), 1)
	// A kernel thread takes the request by itself, and is woken in case it sleeps: the flags have the same number.
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, 1, 0, uintptr(flags&ringKernelThread), 0, 0); errno != 0 {
		return fmt.Errorf("io_uring_enter: %w", errno)
	}
	for end := time.Now().Add(10 * time.Second); atomic.LoadUint32(word(setup.complete.tail)) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return unix.ETIMEDOUT
		}
	}
	runtime.KeepAlive(address)
	if result := *(*int32)(unsafe.Pointer(&rings[setup.complete.array+8])); result < 0 {
		return unix.Errno(-result)
	}
	return nil
}

// rawAddress is a struct sockaddr_in or sockaddr_in6.
func rawAddress(family int, a netip.AddrPort) []byte {
	b := []byte{byte(family), byte(family >> 8), byte(a.Port() >> 8), byte(a.Port())}
	if family == unix.AF_INET {
		v4 := a.Addr().As4()
		return append(append(b, v4[:]...), make([]byte, 8)...)
	}
	v6 := a.Addr().As16()
	return append(append(append(b, 0, 0, 0, 0), v6[:]...), 0, 0, 0, 0)
}

var unspec [16]byte // AF_UNSPEC is 0

func unspecAddress() uintptr { return uintptr(unsafe.Pointer(&unspec[0])) }

// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

// allowed are the calls that pass whatever their arguments: what a running Go program makes by itself, and
// reading, writing, accepting, connecting and splicing on descriptors it has.
var allowed = []uint32{
	unix.SYS_READ, unix.SYS_READV, unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_CLOSE,
	unix.SYS_PREAD64,               // the runtime re-reads the cgroup's cpu.max, metrics /proc/self/stat: both are kept open
	unix.SYS_FSTAT, unix.SYS_LSEEK, // of descriptors: harmless
	unix.SYS_ACCEPT4, unix.SYS_CONNECT, unix.SYS_SHUTDOWN,
	unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKOPT,
	unix.SYS_RECVMSG, unix.SYS_SENDMSG, unix.SYS_RECVFROM, unix.SYS_SENDTO,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_PPOLL,
	unix.SYS_SPLICE, unix.SYS_PIPE2,
	unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_SCHED_YIELD,
	unix.SYS_SCHED_GETAFFINITY, // GOMAXPROCS follows it at run time
	unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MINCORE,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
	unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID,
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_RESTART_SYSCALL,
	unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_BRK, // of the C library, in a binary with cgo
	unix.SYS_GETRANDOM, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY, unix.SYS_GETRUSAGE,
}

// programs are the options of SOL_SOCKET that put a program on a socket, or take it off. A filter on a listener outlives
// who put it there: the next ztunnel would accept nothing.
var programs = []uint32{
	unix.SO_ATTACH_FILTER, unix.SO_DETACH_FILTER, unix.SO_LOCK_FILTER, unix.SO_ATTACH_BPF,
	unix.SO_ATTACH_REUSEPORT_CBPF, unix.SO_ATTACH_REUSEPORT_EBPF, unix.SO_DETACH_REUSEPORT_BPF,
}

const (
	threadFlags = 0xd0f00    // of clone, exactly as Go's runtime asks for a thread,
	cgoFlags    = 0x3d0f00   // and as the C library does
	setVMA      = 0x53564d41 // PR_SET_VMA: the runtime names its mappings
	setPipeSize = 1031       // F_SETPIPE_SZ, for splice
)

// Offsets in struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

type program []unix.SockFilter

func (p *program) add(code uint16, k uint32, yes, no uint8) {
	*p = append(*p, unix.SockFilter{Code: code, Jt: yes, Jf: no, K: k})
}

func (p *program) load(offset uint32)   { p.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0) }
func (p *program) answer(action uint32) { p.add(unix.BPF_RET|unix.BPF_K, action, 0, 0) }
func (p *program) skipUnless(k uint32, n int) {
	p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, k, 0, uint8(n))
}

// oneOf lets the call nr pass if its argument is among values. Both halves of the argument are looked at: the
// high one must be zero.
func (p *program) oneOf(deny, nr, arg uint32, values ...uint32) {
	n := 5 + 2*len(values)
	p.skipUnless(nr, n)
	p.load(offArgs + 8*arg + 4)
	p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, 0, 1, 0)
	p.answer(deny)
	p.load(offArgs + 8*arg)
	for _, v := range values {
		p.skipUnless(v, 1)
		p.answer(unix.SECCOMP_RET_ALLOW)
	}
	p.answer(deny)
}

// without lets the call nr pass if its argument lacks all bits.
func (p *program) without(deny, nr, arg, bits uint32) {
	p.skipUnless(nr, 4)
	p.load(offArgs + 8*arg)
	p.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, bits, 1, 0)
	p.answer(unix.SECCOMP_RET_ALLOW)
	p.answer(deny)
}

// setsockopt lets it pass but for programs. The kernel reads the lower half of level and option.
func (p *program) setsockopt(deny uint32) {
	p.skipUnless(unix.SYS_SETSOCKOPT, 5+2*len(programs))
	p.load(offArgs + 8*1)
	p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, unix.SOL_SOCKET, 1, 0)
	p.answer(unix.SECCOMP_RET_ALLOW)
	p.load(offArgs + 8*2)
	for _, option := range programs {
		p.skipUnless(option, 1)
		p.answer(deny)
	}
	p.answer(unix.SECCOMP_RET_ALLOW)
}

// filter makes the program for this architecture. Calls in another architecture's convention end the process;
// those of x32 carry a high bit and so match no number of the list.
func filter(mode Mode, pid int) ([]unix.SockFilter, error) {
	arch, ok := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if !ok {
		return nil, errors.New("no system call filter for " + runtime.GOARCH)
	}
	deny := uint32(unix.SECCOMP_RET_KILL_PROCESS)
	if mode == Errno {
		deny = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	}
	var p program
	p.load(offArch)
	p.skipUnless(arch, 1)
	p.add(unix.BPF_JMP|unix.BPF_JA, 1, 0, 0)
	p.answer(unix.SECCOMP_RET_KILL_PROCESS)
	p.load(offNumber)
	for _, nr := range allowed {
		p.skipUnless(nr, 1)
		p.answer(unix.SECCOMP_RET_ALLOW)
	}
	p.oneOf(deny, unix.SYS_CLONE, 0, threadFlags, cgoFlags)
	// Its flags lie in memory, where no filter sees them. The C library tries it first, and then clone.
	p.skipUnless(unix.SYS_CLONE3, 1)
	p.answer(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))
	p.oneOf(deny, unix.SYS_FCNTL, 1, unix.F_GETFL, unix.F_SETFL, unix.F_GETFD, unix.F_DUPFD_CLOEXEC, setPipeSize)
	p.setsockopt(deny)
	p.oneOf(deny, unix.SYS_PRCTL, 0, setVMA)
	p.oneOf(deny, unix.SYS_TGKILL, 0, uint32(pid)) // the runtime preempts its own threads
	p.without(deny, unix.SYS_MMAP, 2, unix.PROT_EXEC)
	p.without(deny, unix.SYS_MPROTECT, 2, unix.PROT_EXEC)
	p.answer(deny)
	return p, nil
}

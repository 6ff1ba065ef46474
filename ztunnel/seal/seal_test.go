// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const roleEnv = "WARREN_SEAL_TEST"

func TestMain(m *testing.M) {
	role := os.Getenv(roleEnv)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := runSealed(role); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("done")
	os.Exit(0)
}

// forbidden are calls that a sealed process must not make.
var forbidden = map[string]func() error{
	"socket": func() error {
		_, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		return err
	},
	"open":  func() error { _, err := os.Open("/etc/passwd"); return err },
	"exec":  func() error { return unix.Exec("/bin/true", []string{"true"}, nil) },
	"start": func() error { return exec.Command("/bin/true").Run() },
	"mmap": func() error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
		return err
	},
	"mprotect": func() error {
		b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return nil // allowed to map, so this is a defect
		}
		return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
	},
	"bind":   func() error { return unix.Bind(passedSocket, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}) },
	"listen": func() error { return unix.Listen(passedSocket, 1) },
	"bpf": func() error {
		_, _, e := unix.Syscall(unix.SYS_BPF, 0, 0, 0)
		return e
	},
	"ptrace": func() error { return unix.PtraceAttach(1) },
	"kill":   func() error { return unix.Kill(os.Getppid(), 0) },
	"unlink": func() error { return os.Remove("/nowhere") },
	"setuid": func() error {
		_, _, e := unix.RawSyscall(unix.SYS_SETUID, 0, 0, 0)
		return e
	},
	"unshare": func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
	"io_uring": func() error {
		_, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0)
		return e
	},
	"filter": func() error {
		all := unix.SockFilter{Code: unix.BPF_RET}
		return unix.SetsockoptSockFprog(passedSocket, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &all})
	},
	"fcntl": func() error { _, err := unix.FcntlInt(0, unix.F_SETLEASE, 0); return err },
}

func runSealed(role string) error {
	if role == "drop" {
		return dropped()
	}
	if os.Geteuid() == 0 { // as ztunnel: a user without capabilities
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(65532), syscall.Setuid(65532)); err != nil {
			return err
		}
	}
	what, mode := role, Errno
	if name, ok := strings.CutPrefix(role, "kill-"); ok {
		what, mode = name, Kill
	}
	if what == "work" {
		return work()
	}
	if what == "hold" { // as after execve, in case the change of user took it
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
			return err
		}
	}
	if err := Seal(mode); err != nil {
		return err
	}
	if what == "hold" {
		fmt.Println("sealed")
		_, err := unix.Read(0, make([]byte, 1))
		return err
	}
	if what == "all" {
		for name, call := range forbidden {
			if err := call(); !errors.Is(err, unix.EPERM) {
				return fmt.Errorf("%s: %v, want EPERM", name, err)
			}
		}
		return nil
	}
	err := forbidden[what]()
	return fmt.Errorf("%s came back: %v", what, err)
}

// dropped is for a process that was started with privileges: no thread keeps one.
func dropped() error {
	if err := dropCapabilities(); err != nil {
		return err
	}
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(tasks) == 0 {
		return fmt.Errorf("no threads: %v", err)
	}
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if err != nil {
			continue // ended
		}
		for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
			if !strings.Contains(string(b), set+":\t0000000000000000\n") {
				return fmt.Errorf("%s: %s is not empty", t, set)
			}
		}
	}
	return nil
}

// passedSocket is an unconnected socket the child was given.
const passedSocket = 3

func child(t *testing.T, role string, files ...*os.File) (string, error) {
	t.Helper()
	c := exec.Command(os.Args[0])
	// With cgo, the C library would count processors in /sys for its memory arenas.
	c.Env = append(os.Environ(), roleEnv+"="+role, "MALLOC_ARENA_MAX=1")
	c.ExtraFiles = files
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(20*time.Second, func() { _ = c.Process.Kill() })
	defer stop.Stop()
	err := c.Wait()
	return out.String(), err
}

// socket makes an unconnected, non-blocking socket to pass.
func socket(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	t.Cleanup(func() { f.Close() })
	return f
}

func TestForbiddenCallsFail(t *testing.T) {
	if out, err := child(t, "all", socket(t)); err != nil || out != "done\n" {
		t.Errorf("%v: %s", err, out)
	}
}

func TestCapabilitiesAreDropped(t *testing.T) {
	if out, err := child(t, "drop"); err != nil && !strings.Contains(out, "capabilities are left") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestNotDumpable: of a process that leaves no core file, and that others of its user can't look into, /proc belongs to root.
func TestNotDumpable(t *testing.T) {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), roleEnv+"=hold", "MALLOC_ARENA_MAX=1")
	in, err1 := c.StdinPipe()
	out, err2 := c.StdoutPipe()
	if err := errors.Join(err1, err2, c.Start()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Wait() }()
	defer in.Close() // ends it
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "sealed\n" {
		t.Fatalf("%v: %s", err, line)
	}
	st, err := os.Stat(fmt.Sprintf("/proc/%d/status", c.Process.Pid)) // a file: the directory is always its user's
	if err != nil {
		t.Fatal(err)
	}
	if owner := st.Sys().(*syscall.Stat_t).Uid; owner != 0 {
		t.Errorf("/proc of the sealed process belongs to user %d: it can be dumped", owner)
	}
}

func TestForbiddenCallsKill(t *testing.T) {
	for name := range forbidden {
		out, err := child(t, "kill-"+name, socket(t))
		var ee *exec.ExitError
		if !errors.As(err, &ee) || ee.Sys().(syscall.WaitStatus).Signal() != syscall.SIGSYS {
			t.Errorf("%s: %v, want SIGSYS: %s", name, err, out)
		}
	}
}

// TestWorkGoesOn runs what ztunnel does, sealed in kill mode: any call that is missing from the list ends it.
func TestWorkGoesOn(t *testing.T) {
	files := []*os.File{}
	for range dialSockets {
		files = append(files, socket(t))
	}
	for range 2 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	if out, err := child(t, "work", files...); err != nil || !strings.HasSuffix(out, "done\n") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestFilterOfBothArchitectures(t *testing.T) {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		if _, err := filter(Kill, 1); err == nil {
			t.Error("a filter for an architecture nobody tried")
		}
		return
	}
	p, err := filter(Kill, 1)
	if err != nil {
		t.Fatal(err)
	}
	for i, in := range p {
		// Every jump lands inside the program.
		if in.Code&0x07 == unix.BPF_JMP && (i+1+int(in.Jt) >= len(p) || i+1+int(in.Jf) >= len(p)) {
			t.Errorf("instruction %d jumps out", i)
		}
	}
	if last := p[len(p)-1]; last.Code != unix.BPF_RET|unix.BPF_K || last.K != unix.SECCOMP_RET_KILL_PROCESS {
		t.Errorf("the program ends with %+v, want a denial", last)
	}
}

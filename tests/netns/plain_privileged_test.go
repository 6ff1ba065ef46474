// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/tests/testutil"
)

// TestPlain is the harness without Warren: pods on two nodes reach each other by address and by name.
func TestPlain(t *testing.T) {
	testutil.Privileged(t)
	started := time.Now()
	m := New(t, Options{})
	client := m.Node("a").Pod("client", In("app"), ServiceAccount("client"))
	near := m.Node("a").Pod("near", In("app"), Labels("app", "near"))
	far := m.Node("b").Pod("far", In("app"), Labels("app", "far"))
	m.Service("near", "app", map[string]string{"app": "near"}, TCP(80, 8080))
	m.Service("far", "app", map[string]string{"app": "far"}, TCP(80, 8080))
	m.Service("bare", "app", map[string]string{"app": "far"}, TCP(8080, 8080), Headless())
	m.Service("nobody", "app", map[string]string{"app": "nobody"}, TCP(80, 8080))
	m.Service("me", "app", map[string]string{"app": "me"}, TCP(80, 8080))
	me := m.Node("b").Pod("me", In("app"), Labels("app", "me"))
	for _, p := range []*Pod{near, far, me} {
		echo(t, p, ":8080")
	}
	m.settle()
	t.Logf("up in %v", time.Since(started))

	tests := []struct {
		name    string
		from    *Pod
		address string
		masked  bool // the server sees somebody else's address
	}{
		{"pod IP, same node", client, "", false},
		{"pod IP, across nodes", client, "", false},
		{"ClusterIP, same node", client, "near:80", false},
		{"ClusterIP, across nodes", client, "far.app.svc.cluster.local:80", false},
		{"headless name", client, "bare:8080", false},
		{"ClusterIP of oneself", me, "me:80", true},
	}
	for _, tt := range tests {
		for _, network := range []string{"tcp4", "tcp6"} {
			t.Run(tt.name+" "+network, func(t *testing.T) {
				address := tt.address
				if address == "" {
					to := map[bool]*Pod{true: near, false: far}[strings.Contains(tt.name, "same")]
					address = to.Addr(network, 8080).String()
				}
				local, seen, err := talk(t, tt.from, network, address, "hello")
				if err != nil {
					t.Fatal(err)
				}
				if !tt.masked && seen != local {
					t.Errorf("the server saw %s, want %s", seen, local)
				}
			})
		}
	}
	t.Run("closed port", func(t *testing.T) {
		if _, _, err := talk(t, client, "tcp", far.Addr("tcp4", 9).String(), "x"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("got %v, want connection refused", err)
		}
	})
	t.Run("service without endpoints", func(t *testing.T) {
		if _, _, err := talk(t, client, "tcp4", "nobody:80", "x"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("got %v, want connection refused", err)
		}
	})
	t.Run("unknown name", func(t *testing.T) {
		if _, _, err := talk(t, client, "tcp", "nowhere.example:80", "x"); err == nil || !strings.Contains(err.Error(), "no such host") {
			t.Errorf("got %v, want no such host", err)
		}
	})
	t.Run("endpoints follow readiness", func(t *testing.T) {
		far.SetReady(false)
		if _, _, err := talk(t, client, "tcp4", "far:80", "x"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("unready: got %v, want connection refused", err)
		}
		far.SetReady(true)
		if _, _, err := talk(t, client, "tcp4", "far:80", "x"); err != nil {
			t.Errorf("ready again: %v", err)
		}
	})
	t.Run("a dial ends with its context", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := client.Dial(ctx, "tcp", "10.244.9.9:80"); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("got %v, want the deadline", err)
		}
	})
	t.Run("exec sees the pod", func(t *testing.T) {
		out, err := client.Exec(t.Context(), "sh", "-c", "hostname; cat /proc/self/cgroup; cat /etc/hosts; readlink /proc/self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", client.PID()))
		for _, want := range []string{"client\n", "/kubepods/pod" + client.UID + "/exec\n", " far.app ", ns} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in:\n%s", want, out)
			}
		}
	})
	t.Run("sockets are of the pod's cgroup", func(t *testing.T) {
		f, err := client.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cookie, err := unix.GetsockoptUint64(int(f.Fd()), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		mine, _ := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		defer unix.Close(mine)
		own, _ := unix.GetsockoptUint64(mine, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		if err != nil || cookie == own {
			t.Errorf("netns cookie %d, err %v; the test's own is %d", cookie, err, own)
		}
	})
	t.Run("node dials a pod", func(t *testing.T) {
		c, err := m.Node("a").Dial(t.Context(), "tcp6", near.Addr("tcp6", 8080).String())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	})
	t.Run("delete", func(t *testing.T) {
		far.Delete()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if c, err := client.Dial(ctx, "tcp", netip.AddrPortFrom(far.IPv4, 8080).String()); err == nil {
			c.Close()
			t.Error("a deleted pod answers")
		}
		if _, err := os.Stat(m.Manifests() + "/pod-app-far.yaml"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("its object is still there: %v", err)
		}
	})
}

// recorder takes a mesh's failures instead of failing the test.
type recorder struct {
	*testing.T
	said []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.said = append(r.said, fmt.Sprintf(format, args...))
}
func (r *recorder) Cleanup(func()) {}
func (r *recorder) Failed() bool   { return false }

func TestLeaksAreNamed(t *testing.T) {
	testutil.Privileged(t)
	defer func(d time.Duration) { goneWithin = d }(goneWithin)
	goneWithin = 500 * time.Millisecond
	r := &recorder{T: t}
	m := New(r, Options{})
	p := m.Node("a").Pod("client")
	// A socket that the harness doesn't know of keeps the pod's network namespace alive.
	fds, err := p.sandbox.call(t.Context(), request{Op: "socket", Socket: [3]int{unix.AF_INET, unix.SOCK_STREAM, 0}})
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(fds)
	m.Down()
	if len(r.said) == 0 || !strings.Contains(r.said[0], "p1-client") {
		t.Errorf("said %q, want the link of the pod's namespace", r.said)
	}
}

func TestBPFObjectsAreFound(t *testing.T) {
	testutil.Privileged(t)
	attr := struct{ typ, key, value, entries uint32 }{2, 4, 4, 1} // BPF_MAP_CREATE of an array
	fd, err := bpf(0, struct{ id, next, flags, pad uint32 }{attr.typ, attr.key, attr.value, attr.entries})
	if err != nil {
		t.Fatal(err)
	}
	k := kernelObjects{}
	k.add(fmt.Sprintf("/proc/self/fdinfo/%d", fd), "held by the test")
	if len(k) != 1 {
		t.Fatalf("found %v, want one map", k)
	}
	for id := range k {
		if !exists(id) {
			t.Errorf("%s should exist", id)
		}
	}
	unix.Close(fd)
	if left := k.stillThere(); len(left) > 0 {
		t.Errorf("left %v, want nothing", left)
	}
}

func TestSeveralMeshesSideBySide(t *testing.T) {
	testutil.Privileged(t)
	for i := range 2 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			m := New(t, Options{})
			a, b := m.Node("a").Pod("x"), m.Node("b").Pod("y")
			echo(t, b, ":80")
			if _, _, err := talk(t, a, "tcp", net.JoinHostPort(b.IPv6.String(), "80"), fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCrashLeavesNoProcess kills the process that holds a mesh: its processes end by themselves, and the next run
// removes what is left.
func TestCrashLeavesNoProcess(t *testing.T) {
	testutil.Privileged(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), crashVariable+"=1")
	out, err := cmd.Output()
	var cgroup, dir string
	if n, _ := fmt.Sscan(string(out), &cgroup, &dir); n != 2 || err == nil {
		t.Fatalf("said %q and ended with %v, want its cgroup and directory, and a kill", out, err)
	}
	testutil.Eventually(t, 5*time.Second, "its processes end", func() bool { return len(cgroupProcs(cgroup)) == 0 })
	removed := Sweep()
	for _, path := range []string{cgroup, dir} {
		// Another test binary may have swept at the same time; what counts is that it is gone.
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there; removed were %v", path, removed)
		}
	}
}

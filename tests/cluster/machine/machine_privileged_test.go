// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMachine boots one machine and removes it as the sweep after a crash does: knowing nothing but the cgroups' name.
func TestMachine(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" || os.Getenv("WARREN_REQUIRE_ROOT") == "1" {
			t.Fatal("this test needs root, and under CI it must run")
		}
		t.Skip("needs root: run `go test -exec sudo` on this package")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	program := filepath.Join(t.TempDir(), "warren-testmachine")
	build := exec.Command("nice", "go", "build", "-o", program, "../cmd/warren-testmachine")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const cgroup = "warren-testcluster.machine-test."
	t.Cleanup(func() {
		dirs, _ := FindCgroups(cgroup)
		if err := RemoveCgroups(dirs, 10*time.Second); err != nil {
			t.Error(err)
		}
	})
	m, err := Create(program, cgroup+"m", Spec{Name: "m", Dir: t.TempDir(), Sysctls: map[string]string{"net/ipv4/ip_forward": "1"},
		Masked: map[string]string{"kernel/panic": "77"}, Forwards: []string{"127.0.0.1:80"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Boot(ctx, l); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		"hostname": "m", "cat /proc/sys/net/ipv4/ip_forward": "1", "cat /proc/sys/kernel/panic": "77", "ls /sys/class/net": "lo", "cat /proc/1/comm": "warren-testmach",
		"pwd": "/",
	} {
		out, err := m.Run(ctx, nil, "sh", "-c", command)
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%s: %q, %v; want %q", command, out, err, want)
		}
	}
	if _, err := m.Run(ctx, nil, "sh", "-c", "exit 3"); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("a command that fails: %v", err)
	}
	supervises(ctx, t, m)
	// A command that doesn't end is killed with its context, inside the machine, too.
	short, stop := context.WithTimeout(ctx, 200*time.Millisecond)
	defer stop()
	if _, err := m.Run(short, nil, "sleep", "1000"); err == nil {
		t.Error("sleep ended by itself")
	}
	wait(ctx, t, "the command's end", func() bool { return !slices.Contains(commands(m), "sleep 1000") })
	found, err := FindCgroups(cgroup)
	if err != nil || len(found) != len(m.Cgroups) {
		t.Fatalf("found cgroups %v, %v; want %v", found, err, m.Cgroups)
	}
	pid := m.PID
	if err := RemoveCgroups(found, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if left, _ := FindCgroups(cgroup); len(left) > 0 {
		t.Errorf("cgroups are left: %v", left)
	}
	if _, err := startTime(pid); err == nil {
		t.Error("pid 1 is left")
	}
	if again, err := Open(program, m.Dir); err != nil || again.PID != 0 {
		t.Errorf("a machine that is off has pid %d, %v", again.PID, err)
	}
}

// supervises takes a service through what can happen to it.
func supervises(ctx context.Context, t *testing.T, m *Machine) {
	state := func() Status {
		all, err := m.Services(ctx)
		if err != nil || len(all) != 1 {
			t.Fatalf("services are %v, %v", all, err)
		}
		return all[0]
	}
	// The service ends at once on SIGTERM only if the shell passes it on: it doesn't, so that Stop has to kill it.
	if err := m.Start(ctx, Service{Name: "svc", Env: []string{"WORD=hello"}, Args: []string{"sh", "-c", `trap "" TERM; echo $WORD; while :; do sleep 0.05; done`}}); err != nil {
		t.Fatal(err)
	}
	wait(ctx, t, "the service's word", func() bool {
		b, _ := os.ReadFile(m.logFile("svc"))
		return string(b) == "hello\n"
	})
	for _, c := range m.Cgroups {
		if len(processesBelow(filepath.Join(c.Dir, "svc"))) == 0 {
			t.Errorf("the service is not in its leaf of %s", c.Dir)
		}
	}
	if err := m.Signal(ctx, "svc", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(ctx, t, "the service to run again", func() bool { s := state(); return s.Running && s.Restarts == 1 && s.Exit == "signal killed" })
	if err := m.Stop(ctx, "svc", 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if s := state(); s.Running || s.Wanted {
		t.Errorf("a stopped service is %+v", s)
	}
	if err := m.Signal(ctx, "svc", syscall.SIGKILL); err == nil {
		t.Error("a service that does not run got a signal")
	}
	if err := m.Start(ctx, Service{Name: "svc"}); err != nil {
		t.Fatal(err)
	}
	if s := state(); !s.Running {
		t.Errorf("a started service is %+v", s)
	}
	if err := m.Start(ctx, Service{Name: "other"}); err == nil {
		t.Error("a service nobody described was started")
	}
}

func commands(m *Machine) []string {
	var all []string
	for _, c := range m.Cgroups {
		for _, pid := range processesBelow(c.Dir) {
			b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
			all = append(all, strings.TrimRight(strings.ReplaceAll(string(b), "\x00", " "), " "))
		}
	}
	return all
}

func wait(ctx context.Context, t *testing.T, what string, done func() bool) {
	t.Helper()
	for !done() {
		if ctx.Err() != nil {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

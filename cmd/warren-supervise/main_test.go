// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/cmd/internal/exit"
	"github.com/warren-mesh/warren/tests/testutil"
)

const dirEnv = "WARREN_SUPERVISE_TEST"

// TestMain lets the test binary be the supervisor, or the program below it, which notes its pid in a file, one line per start.
func TestMain(m *testing.M) {
	switch dir := os.Getenv(dirEnv); {
	case dir == "":
		os.Exit(m.Run())
	case len(os.Args) > 1 && os.Args[1] == os.Args[0]:
		main()
	default:
		program(dir, os.Args[1:])
	}
}

func program(dir string, args []string) {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	f, err := os.OpenFile(filepath.Join(dir, "starts"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(f, os.Getpid(), time.Now().UnixMilli())
	f.Close()
	switch what := strings.Join(args, " "); what {
	case "fail":
		os.Exit(1)
	case "panic":
		panic("as asked")
	case "help":
		os.Exit(exit.Usage)
	default:
		<-terminated
		code, _ := strconv.Atoi(what)
		os.Exit(code)
	}
}

type run struct {
	t   *testing.T
	cmd *exec.Cmd
	dir string
}

func supervised(t *testing.T, args ...string) *run {
	t.Helper()
	r := &run{t: t, dir: t.TempDir()}
	r.cmd = exec.Command(os.Args[0], append([]string{os.Args[0]}, args...)...)
	r.cmd.Env = append(os.Environ(), dirEnv+"="+r.dir)
	// A file, so that Wait does not wait for a grandchild that holds a pipe.
	f, err := os.Create(filepath.Join(r.dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r.cmd.Stderr = f
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.cmd.Process.Signal(syscall.SIGTERM)
		_, _ = r.cmd.Process.Wait()
	})
	return r
}

// starts lists the pids and times, in milliseconds, of the starts so far.
func (r *run) starts() (pids []int, at []int64) {
	b, _ := os.ReadFile(filepath.Join(r.dir, "starts"))
	for line := range strings.Lines(string(b)) {
		var pid int
		var ms int64
		if n, _ := fmt.Sscan(line, &pid, &ms); n == 2 {
			pids, at = append(pids, pid), append(at, ms)
		}
	}
	return pids, at
}

func (r *run) waitStarts(n int) []int {
	r.t.Helper()
	var pids []int
	testutil.Eventually(r.t, 10*time.Second, fmt.Sprintf("start %d does not come", n), func() bool {
		pids, _ = r.starts()
		return len(pids) >= n
	})
	return pids
}

func TestFiveKillsRestartAtOnceTheSixthPauses(t *testing.T) {
	r := supervised(t)
	for n := 1; n <= 6; n++ {
		pids := r.waitStarts(n)
		if err := syscall.Kill(pids[n-1], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	r.waitStarts(7)
	_, at := r.starts()
	for i := 1; i < 6; i++ {
		if gap := at[i] - at[i-1]; gap > 900 {
			t.Errorf("restart %d came after %d ms, want at once", i, gap)
		}
	}
	if gap := at[6] - at[5]; gap < 1000 {
		t.Errorf("after six deaths the restart came after %d ms, want a pause of 1 s", gap)
	}
}

func TestTermIsForwardedAndTheCodePassed(t *testing.T) {
	for _, code := range []int{0, 3} {
		r := supervised(t, strconv.Itoa(code))
		r.waitStarts(1)
		if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		err := r.cmd.Wait()
		if got := r.cmd.ProcessState.ExitCode(); got != code {
			t.Errorf("exit code %d, want %d: %v", got, code, err)
		}
		if pids, _ := r.starts(); len(pids) != 1 {
			t.Errorf("%d starts, want 1", len(pids))
		}
	}
}

func TestTheChildEndsWithItsSupervisor(t *testing.T) {
	r := supervised(t)
	pid := r.waitStarts(1)[0]
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, 5*time.Second, "the child lives on", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(b), ") Z ")
	})
}

func TestFailingChildIsStartedAgain(t *testing.T) {
	r := supervised(t, "fail")
	r.waitStarts(3)
}

// Go ends a process that panics with code 2, as many programs do for a wrong command line.
func TestPanickingChildIsStartedAgain(t *testing.T) {
	r := supervised(t, "panic")
	r.waitStarts(3)
}

// A node short of processes must not turn one death into a kubelet's back-off.
func TestFailedRestartIsTriedAgain(t *testing.T) {
	starts := 0
	s := supervisor{now: time.Now, log: io.Discard}
	defer s.listen()()
	stops := make(chan os.Signal, 1)
	s.stops = stops
	s.start = func() (int, error) {
		switch starts++; starts {
		case 2:
			return 0, syscall.EAGAIN
		case 3:
			stops <- syscall.SIGTERM
		}
		return syscall.ForkExec("/bin/true", []string{"true"}, nil)
	}
	if s.run(); starts != 3 {
		t.Errorf("%d starts, want 3", starts)
	}
}

// A program that can't live is for the kubelet to show; one that lived is never given up.
func TestProgramThatNeverLives(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lives time.Duration // the first child; the others a second less than it takes
		ends  bool
	}{
		{"never lives", lived - time.Second, true},
		{"lived", lived, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Now()
			first := now
			s := supervisor{log: io.Discard, now: func() time.Time { return now }}
			defer s.listen()()
			stops := make(chan os.Signal, 1)
			s.stops = stops
			s.start = func() (int, error) {
				if now == first {
					now = now.Add(tt.lives)
				} else {
					now = now.Add(lived - time.Second)
				}
				if now.Sub(first) > 2*lifeWithin {
					stops <- syscall.SIGTERM
				}
				return syscall.ForkExec("/bin/false", []string{"false"}, nil)
			}
			if code := s.run(); s.stopping == tt.ends || tt.ends && code != 1 {
				t.Errorf("code %d after %v, told to stop: %v", code, now.Sub(first), s.stopping)
			}
		})
	}
}

// Ends of many children at once, which nobody takes meanwhile, leave room for a request to stop.
func TestEndsOfChildrenDoNotHideARequestToStop(t *testing.T) {
	var s supervisor
	defer s.listen()()
	witness := make(chan os.Signal, 64)
	signal.Notify(witness, syscall.SIGCHLD, os.Interrupt)
	defer signal.Stop(witness)
	raise := func(sig syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
		select {
		case <-witness:
		case <-time.After(5 * time.Second):
			t.Fatalf("%v does not come", sig)
		}
	}
	for range 32 {
		raise(syscall.SIGCHLD)
	}
	raise(syscall.SIGINT)
	select {
	case sig := <-s.stops:
		if sig != os.Interrupt {
			t.Errorf("%v counts as a request to stop", sig)
		}
	case <-time.After(time.Second):
		t.Error("the request to stop is lost")
	}
}

// What stops the child too, as a terminal does, may come at once with its end.
func TestRequestToStopWinsOverARestart(t *testing.T) {
	for range 100 {
		stops := make(chan os.Signal, 1)
		stops <- os.Interrupt
		s := supervisor{stops: stops}
		if s.sleep(0); !s.stopping {
			t.Fatal("another child would be started")
		}
	}
}

// Who asks for help, as a kubelet with a wrong command line may, gets it once.
func TestHelpIsNotRepeated(t *testing.T) {
	r := supervised(t, "help")
	err := r.cmd.Wait()
	if got := r.cmd.ProcessState.ExitCode(); got != exit.Usage {
		t.Errorf("exit code %d, want %d: %v", got, exit.Usage, err)
	}
	if pids, _ := r.starts(); len(pids) != 1 {
		t.Errorf("%d starts, want 1", len(pids))
	}
}

func TestWithoutAProgram(t *testing.T) {
	var out strings.Builder
	if code := supervise([]string{"/does/not/exist"}, &out); code != 1 || out.String() != "exist: supervise: start: no such file or directory\n" {
		t.Errorf("code %d, %q", code, out.String())
	}
}

func TestDeathsAreForgotten(t *testing.T) {
	now := time.Now()
	s := supervisor{now: func() time.Time { return now }, log: io.Discard}
	for i := range 5 {
		if d := s.died(); d != 0 {
			t.Errorf("death %d: pause %v", i, d)
		}
	}
	if d := s.died(); d != deathPause {
		t.Errorf("sixth death: pause %v", d)
	}
	now = now.Add(deathWindow + time.Second)
	if d := s.died(); d != 0 {
		t.Errorf("a death long after: pause %v", d)
	}
}

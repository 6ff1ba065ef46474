// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"bytes"
	"errors"
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

	"github.com/warren-mesh/warren/tests/testutil"
)

const dirEnv = "WARREN_SUPERVISE_TEST"

// TestMain lets the test binary be the supervised program: it notes its pid in a file, one line per start.
func TestMain(m *testing.M) {
	if os.Getenv(dirEnv) == "" {
		os.Exit(m.Run())
	}
	os.Exit(Main("tester", func(args []string) error {
		f, err := os.OpenFile(filepath.Join(os.Getenv(dirEnv), "starts"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		terminated := make(chan os.Signal, 1)
		signal.Notify(terminated, syscall.SIGTERM)
		fmt.Fprintln(f, os.Getpid(), time.Now().UnixMilli())
		f.Close()
		if len(args) > 0 && args[0] == "fail" {
			return errors.New("as asked")
		}
		if len(args) > 0 && args[0] == "panic" {
			panic("as asked")
		}
		<-terminated
		if len(args) > 0 {
			code, err := strconv.Atoi(args[0])
			if err != nil {
				return err
			}
			os.Exit(code)
		}
		return nil
	}))
}

type run struct {
	t   *testing.T
	cmd *exec.Cmd
	dir string
}

func supervised(t *testing.T, args ...string) *run {
	t.Helper()
	r := &run{t: t, dir: t.TempDir()}
	r.cmd = exec.Command(os.Args[0], append([]string{"supervise"}, args...)...)
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

func TestWithoutSupervise(t *testing.T) {
	dir := t.TempDir()
	c := exec.Command(os.Args[0], "fail")
	c.Env = append(os.Environ(), dirEnv+"="+dir)
	var out bytes.Buffer
	c.Stderr = &out
	if err := c.Run(); c.ProcessState.ExitCode() != 1 || out.String() != "tester: as asked\n" {
		t.Errorf("%v, code %d, %q", err, c.ProcessState.ExitCode(), out.String())
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

// SPDX-License-Identifier: Apache-2.0

// Package supervise makes a binary its own first process: `warren-X supervise FLAGS` starts `warren-X FLAGS`
// and starts it again whenever it dies, so that a restart takes milliseconds and never waits for a kubelet's
// back-off. The supervisor holds no key and no socket.
package supervise

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxDeaths   = 5                // within deathWindow,
	deathWindow = 10 * time.Second // and then
	deathPause  = time.Second      // between death and restart
	usageCode   = 64               // EX_USAGE: help was asked for, a restart can't help. Go's own 2 is a panic's code
)

// Main is the body of a binary's main: it runs run with the arguments behind the program's name, or, if the
// first of them is "supervise", supervises a child that gets the others. It returns the exit code: 0, 1 for an
// error of run (printed to stderr as "NAME: error"), 64 for a request for help.
func Main(name string, run func(args []string) error) int {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "supervise" {
		return child(name, args[1:], os.Stderr)
	}
	err := run(args)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return usageCode
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	return 1
}

// child keeps a child running until SIGTERM or SIGINT, which it passes on, and returns the exit code of the
// last one (128 + the signal's number if a signal ended it).
func child(name string, args []string, log io.Writer) int {
	// The child's parent-death signal belongs to the thread that forked it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintf(log, "%s: supervise: %v\n", name, err)
		return 1
	}
	s := supervisor{name: name, log: log, now: time.Now, start: func() (int, error) { return start(exe, args) }}
	defer s.listen()()
	return s.run()
}

// listen has signals delivered until the function it returns is called. os/signal drops what finds its channel full:
// ends of children, of which one stands for all before it, must not take the place of a request to stop.
func (s *supervisor) listen() (stop func()) {
	stops, ended := make(chan os.Signal, 2), make(chan os.Signal, 1)
	s.stops, s.ended = stops, ended
	signal.Notify(stops, syscall.SIGTERM, os.Interrupt)
	signal.Notify(ended, syscall.SIGCHLD)
	return func() {
		signal.Stop(stops)
		signal.Stop(ended)
	}
}

func start(exe string, args []string) (int, error) {
	return syscall.ForkExec(exe, append([]string{exe}, args...), &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM},
	})
}

type supervisor struct {
	name  string
	log   io.Writer
	stops <-chan os.Signal // requests to stop
	ended <-chan os.Signal // a child ended, or several
	start func() (pid int, err error)
	now   func() time.Time

	deaths   []time.Time
	stopping bool
}

func (s *supervisor) run() int {
	for started := false; ; {
		pid, err := s.start()
		if err != nil {
			fmt.Fprintf(s.log, "%s: supervise: start: %v\n", s.name, err)
			if !started { // there is no such program
				return 1
			}
			if s.sleep(deathPause); s.stopping {
				return 1
			}
			continue
		}
		started = true
		code := s.wait(pid)
		if s.stopping || code == usageCode {
			return code
		}
		pause := s.died()
		fmt.Fprintf(s.log, "%s: supervise: child %d ended with code %d, next in %v\n", s.name, pid, code, pause)
		if s.sleep(pause); s.stopping {
			return code
		}
	}
}

// wait passes signals on and reaps whatever ends, orphans too (this may be process 1), until pid ended.
func (s *supervisor) wait(pid int) int {
	for {
		for {
			var ws unix.WaitStatus
			got, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
			if err == unix.EINTR {
				continue
			}
			if err != nil || got == 0 {
				break
			}
			if got != pid || !ws.Exited() && !ws.Signaled() {
				continue
			}
			if ws.Signaled() {
				return 128 + int(ws.Signal())
			}
			return ws.ExitStatus()
		}
		select {
		case <-s.ended:
		case sig := <-s.stops:
			s.stopping = true
			_ = unix.Kill(pid, sig.(syscall.Signal)) // it may have just ended; then it is reaped next
		}
	}
}

// died notes a death and returns how long to wait before the next start.
func (s *supervisor) died() time.Duration {
	now := s.now()
	s.deaths = append(s.deaths, now)
	for now.Sub(s.deaths[0]) > deathWindow {
		s.deaths = s.deaths[1:]
	}
	if len(s.deaths) > maxDeaths {
		return deathPause
	}
	return 0
}

// sleep waits for d or a request to stop.
func (s *supervisor) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.stops:
		s.stopping = true
		return
	}
	select {
	case <-s.stops: // both were there: a child that a terminal stopped together with us
		s.stopping = true
	default:
	}
}

// SPDX-License-Identifier: Apache-2.0

// Command warren-supervise is the first process of a part's container:
//
//	warren-supervise PROGRAM [ARGUMENT ...]
//
// PROGRAM is a path. It starts the program, and starts it again whenever it dies, so that a restart takes milliseconds and never waits for a
// kubelet's back-off. It passes SIGTERM and SIGINT on, reaps orphans, and ends as the program does that it was told to stop,
// or that was asked for help. The program ends with it. It is a program of its own to be small: it holds no key and no
// socket, and a few MiB where the parts' programs would hold tens.
package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/cmd/internal/exit"
)

const (
	maxDeaths   = 5                // within deathWindow,
	deathWindow = 10 * time.Second // and then
	deathPause  = time.Second      // between death and restart

	lifeWithin = time.Minute // a program that has not
	lived      = deathWindow // by then can't live
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: warren-supervise PROGRAM [ARGUMENT ...]")
		os.Exit(exit.Usage)
	}
	os.Exit(supervise(os.Args[1:], os.Stderr))
}

// supervise keeps a program running until SIGTERM or SIGINT, which it passes on, and returns the exit code of the last one
// (128 + the signal's number if a signal ended it).
func supervise(command []string, log io.Writer) int {
	// The child's parent-death signal belongs to the thread that forked it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := supervisor{name: filepath.Base(command[0]), log: log, now: time.Now, start: func() (int, error) { return start(command) }}
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

func start(command []string) (int, error) {
	return syscall.ForkExec(command[0], command, &syscall.ProcAttr{
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
	settled  bool // a child has lived
	stopping bool
}

func (s *supervisor) run() int {
	first := s.now()
	for started := false; ; {
		born := s.now()
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
		if s.stopping || code == exit.Usage {
			return code
		}
		s.settled = s.settled || s.now().Sub(born) >= lived
		if !s.settled && s.now().Sub(first) > lifeWithin {
			fmt.Fprintf(s.log, "%s: supervise: child %d ended with code %d, and none lived for %v since %v: see what they wrote\n", s.name, pid, code, lived, lifeWithin)
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

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/tests/demo"
	"github.com/warren-mesh/warren/tests/netns"
	netnsdemo "github.com/warren-mesh/warren/tests/netns/demo"
)

// The purposes of a demo's mesh, before and after its report is complete.
const (
	demoStarts = "demo that starts"
	demoStands = "demo"
)

// runDemo starts a keeper for the demo's mesh in the background, and passes on what it says until its report is complete.
func runDemo(args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	command := fs.String("command", "", "how you call warren-netns, for the commands that are printed (default: as this time)")
	stop := fs.String("down", "", "how you stop the demo (default: warren-netns down)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if err := netnsdemo.Preflight(stdout); err != nil {
		return fmt.Errorf("this machine can't run the demo:\n%w", err)
	}
	if err := replace(stdout); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if *command == "" {
		*command = shortest(exe)
	}
	if *stop == "" {
		*stop = *command + " down"
	}
	return follow(exec.Command("/proc/self/exe", "keep-demo", filepath.Dir(exe), *command, *stop), stdout)
}

// replace takes an earlier demo down. A mesh that is up for another reason is left alone, and an error.
func replace(stdout io.Writer) error {
	for _, s := range netns.Sweep() {
		fmt.Fprintln(stdout, "demo: removed from an earlier run:", s)
	}
	s, err := loadState()
	if err != nil || !s.Alive() {
		removeState()
		return nil
	}
	if s.Purpose != demoStands && s.Purpose != demoStarts {
		return errors.New("a mesh is up already (stop it with `warren-netns down`)")
	}
	fmt.Fprintln(stdout, "demo: one is up already; taking it down first (about two seconds)")
	return down(nil, stdout)
}

// shortest is how a user in the working directory would name the file.
func shortest(path string) string {
	dir, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(dir, path); err == nil && filepath.IsLocal(rel) {
		if filepath.Base(rel) == rel {
			return "./" + rel
		}
		return rel
	}
	return path
}

// follow runs the keeper in a session of its own and copies what it says, until it closes the pipe: the mesh stays up
// then, or has failed. An interrupt is passed on, and waited for.
func follow(cmd *exec.Cmd, stdout io.Writer) error {
	words, err := os.Create(statePath() + ".log")
	if err != nil {
		return err
	}
	defer words.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = words, words, []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	disarm := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer disarm() // before stop, which ends ctx too
	if _, err := io.Copy(stdout, r); err != nil {
		return err
	}
	if s, err := loadState(); err == nil && s.Alive() && s.Purpose == demoStands && ctx.Err() == nil {
		return nil
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("the demo failed and was taken down; what its processes said is in %s", words.Name())
	}
	return errors.New("the demo was interrupted and taken down")
}

// keepDemo is the process that holds the demo's mesh. The user sees what goes to file 3; the log gets the rest too.
func keepDemo(args []string, stdout io.Writer) error {
	if len(args) != 3 {
		return errors.New("keep-demo is for `warren-netns demo`")
	}
	o := netnsdemo.Options{Bin: args[0], Command: args[1], Down: args[2]}
	if err := os.Setenv("WARREN_BIN", o.Bin); err != nil {
		return err
	}
	unix.CloseOnExec(3) // or every process of the mesh would hold the pipe open
	user := os.NewFile(3, "user")
	o.Out = tee{user, stdout}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	k := &keeper{out: stdout, errors: o.Out}
	done := make(chan struct{})
	go func() { // Fatalf ends this goroutine, as it would a test's
		defer close(done)
		defer k.cleanup()
		started := time.Now()
		o.Made = func(m *netns.Mesh) { k.save(m, demoStarts) } // so that it can be stopped
		m := netnsdemo.Run(ctx, k, o)
		if k.failed {
			return
		}
		demo.Print(o.Out, netnsdemo.Further(m, o))
		demo.PrintStop(o.Out, o.Down)
		k.save(m, demoStands)
		fmt.Fprintf(stdout, "ready after %v\n", time.Since(started).Round(time.Millisecond))
		user.Close()
		<-ctx.Done()
	}()
	<-done
	removeState()
	if k.failed {
		return exitCode(1)
	}
	return nil
}

func (k *keeper) save(m *netns.Mesh, purpose string) {
	s := m.State()
	s.Purpose = purpose
	if err := saveState(s); err != nil {
		k.Fatalf("%v", err)
	}
}

// tee writes to both; that the user has gone is no error.
type tee struct{ user, log io.Writer }

func (t tee) Write(b []byte) (int, error) {
	_, _ = t.user.Write(b)
	return t.log.Write(b)
}

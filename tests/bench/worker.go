// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/warren-mesh/warren/tests/netns"
)

// readyLine is what a worker says when it has prepared what it can.
const readyLine = "ready"

// worker is this binary playing a part in a pod. It is killed when its context ends.
type worker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	err bytes.Buffer
}

// startWorker starts the part and waits until it is ready.
func startWorker(ctx context.Context, p *netns.Pod, role, argument string) (*worker, error) {
	w := &worker{cmd: exec.CommandContext(ctx, "/proc/self/exe", argument)}
	w.cmd.Env = append(os.Environ(), roleVariable+"="+role)
	w.cmd.Stderr = &w.err
	w.cmd.SysProcAttr = ownSession()
	var err error
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.out = bufio.NewReader(out)
	if err := p.Start(w.cmd); err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", role, p, err)
	}
	line, err := w.out.ReadString('\n')
	if strings.TrimSpace(line) != readyLine {
		return nil, fmt.Errorf("%s in %s: %w", role, p, errors.Join(err, w.wait()))
	}
	return w, nil
}

// ownSession gives every process of the bench a session of its own, as Warren's have: where the kernel groups tasks by
// session, those of one session get at each other's CPU more easily, and a busy machine would favour them.
func ownSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// proceed tells a load to begin and returns what came of it.
func (w *worker) proceed() (outcome, error) {
	var o outcome
	if _, err := io.WriteString(w.in, "\n"); err != nil {
		return o, errors.Join(err, w.wait())
	}
	err := json.NewDecoder(w.out).Decode(&o)
	return o, err
}

// wait reaps the process, and returns what it complained of if it failed.
func (w *worker) wait() error {
	if err := w.cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(w.err.String()))
	}
	return nil
}

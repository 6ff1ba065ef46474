// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/warren-mesh/warren/tests/netns"
)

// statePath is where the keeper tells the other commands about its mesh.
func statePath() string { return filepath.Join(os.TempDir(), "warren-netns.json") }

func saveState(s netns.State) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	tmp := statePath() + ".tmp"
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, statePath())
}

func removeState() { _ = os.Remove(statePath()) }

func loadState() (netns.State, error) {
	var s netns.State
	b, err := os.ReadFile(statePath())
	if err != nil {
		return s, fmt.Errorf("no mesh is up (start one with `warren-netns up`): %w", err)
	}
	return s, json.Unmarshal(b, &s)
}

func status(_ []string, stdout io.Writer) error {
	s, err := loadState()
	if err != nil {
		return err
	}
	if !s.Alive() {
		return errors.New("the mesh's process is gone (remove its rest with `warren-netns down`)")
	}
	return printState(s, stdout)
}

func printState(s netns.State, stdout io.Writer) error {
	w := tabwriter.NewWriter(stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tIPV4\tIPV6\tPID")
	for _, n := range s.Nodes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", n.Name, n.IPv4, n.IPv6, n.PID)
	}
	fmt.Fprintln(w, "\nPOD\tNODE\tIPV4\tIPV6\tPID\tCAPTURED")
	for _, p := range s.Pods {
		captured := s.Captured(p)
		if captured == "" {
			captured = "-"
		}
		fmt.Fprintf(w, "%s/%s\t%s\t%s\t%s\t%d\t%s\n", p.Namespace, p.Name, p.Node, p.IPv4, p.IPv6, p.PID, captured)
	}
	fmt.Fprintf(w, "\nobjects\t%s\nlogs\t%s\n", s.Manifests, s.Logs)
	return w.Flush()
}

// down asks the keeper to take its mesh down, and waits for it.
func down(_ []string, stdout io.Writer) error {
	s, err := loadState()
	if err != nil {
		for _, left := range netns.Sweep() {
			fmt.Fprintln(stdout, "removed from an earlier run:", left)
		}
		leaks()
		fmt.Fprintln(stdout, "nothing is up")
		return nil
	}
	if s.Alive() {
		pid, err := strconv.Atoi(s.Owner[:strings.IndexByte(s.Owner, '-')])
		if err != nil {
			return fmt.Errorf("state file %s: %w", statePath(), err)
		}
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			return fmt.Errorf("stop the mesh's process %d: %w", pid, err)
		}
		for end := time.Now().Add(30 * time.Second); s.Alive(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				return fmt.Errorf("the mesh's process %d is still there 30 s after SIGTERM", pid)
			}
		}
	}
	removeState()
	leaks := leaks()
	for _, left := range netns.Sweep() {
		leaks = append(leaks, "left behind: "+left+" (removed now)")
	}
	if len(leaks) > 0 {
		return errors.New(strings.Join(leaks, "\n"))
	}
	fmt.Fprintln(stdout, "down; nothing is left")
	return nil
}

// leaks reads what the keeper found to be left behind, and removes its words when that is nothing.
func leaks() []string {
	b, err := os.ReadFile(statePath() + ".log")
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "left behind: ") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	if len(out) == 0 {
		_ = os.Remove(statePath() + ".log")
	}
	return out
}

// execute runs a command in a pod or node, with this terminal, and passes its exit status on.
func execute(args []string, _ io.Writer) error {
	if len(args) > 1 && args[1] == "--" {
		args = append(args[:1], args[2:]...)
	}
	if len(args) < 2 {
		return errors.New("usage: warren-netns exec POD -- COMMAND [ARGUMENTS]")
	}
	s, err := loadState()
	if err != nil {
		return err
	}
	m, err := s.Find(args[0])
	if err != nil {
		return err
	}
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := m.Start(cmd); err != nil {
		return err
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); errors.As(err, &exit) {
		return exitCode(exit.ExitCode())
	} else if err != nil {
		return err
	}
	return nil
}

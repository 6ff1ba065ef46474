// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/warren-mesh/warren/tests/netns"
)

// defaultTopology is two nodes with a pod on each and one outside the mesh.
const defaultTopology = `
apiVersion: v1
kind: Node
metadata: {name: a}
---
apiVersion: v1
kind: Node
metadata: {name: b}
---
apiVersion: v1
kind: Namespace
metadata: {name: app, labels: {warren.dev/mesh: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: app}
spec: {nodeName: a, serviceAccountName: client, containers: []}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: app, labels: {app: server}}
spec: {nodeName: b, serviceAccountName: server, containers: []}
---
apiVersion: v1
kind: Pod
metadata: {name: outsider, namespace: default}
spec: {nodeName: a, containers: []}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: app}
spec: {selector: {app: server}, ports: [{name: tcp, port: 80, targetPort: 8080}]}
`

// keep is the process that holds the mesh: `up` starts it in the background. It says "ready" or what went wrong on
// its standard output, and ends at SIGTERM.
func keep(args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("keep", flag.ContinueOnError)
	file := fs.String("f", "", "topology")
	plain := fs.Bool("plain", false, "without Warren")
	if err := fs.Parse(args); err != nil {
		return err
	}
	text := defaultTopology
	if *file != "" {
		b, err := os.ReadFile(*file)
		if err != nil {
			return err
		}
		text = string(b)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	k := &keeper{out: stdout}
	done := make(chan struct{})
	go func() { // Fatalf ends this goroutine, as it would a test's
		defer close(done)
		defer k.cleanup()
		m := netns.New(k, netns.Options{})
		if err := m.Load(text, nil); err != nil {
			k.Fatalf("%v", err)
		}
		if !*plain {
			m.Up()
		}
		if err := saveState(m.State()); err != nil {
			k.Fatalf("%v", err)
		}
		fmt.Fprintln(stdout, "ready")
		<-stop
	}()
	<-done
	removeState()
	if k.failed {
		return exitCode(1)
	}
	return nil
}

// keeper plays the test for a mesh that isn't one.
type keeper struct {
	out      io.Writer
	errors   io.Writer // failures; out when nil
	failed   bool
	cleanups []func()
}

var _ netns.T = (*keeper)(nil)

func (k *keeper) Helper()                         {}
func (k *keeper) Name() string                    { return "warren-netns" }
func (k *keeper) Failed() bool                    { return k.failed }
func (k *keeper) Cleanup(f func())                { k.cleanups = append(k.cleanups, f) }
func (k *keeper) Logf(format string, args ...any) { fmt.Fprintf(k.out, format+"\n", args...) }
func (k *keeper) Errorf(format string, args ...any) {
	k.failed = true
	out := k.out
	if k.errors != nil {
		out = k.errors
	}
	fmt.Fprintf(out, format+"\n", args...)
}
func (k *keeper) Fatalf(format string, args ...any) {
	k.Errorf(format, args...)
	runtime.Goexit()
}

func (k *keeper) cleanup() {
	for i := len(k.cleanups) - 1; i >= 0; i-- {
		k.cleanups[i]()
	}
}

// up starts a keeper in the background and waits for its word.
func up(args []string, stdout io.Writer) error {
	for _, s := range netns.Sweep() {
		fmt.Fprintln(stdout, "removed from an earlier run:", s)
	}
	if s, err := loadState(); err == nil && s.Alive() {
		return fmt.Errorf("a mesh is up already (stop it with `warren-netns down`)")
	}
	removeState()
	started := time.Now()
	words, err := os.Create(statePath() + ".log")
	if err != nil {
		return err
	}
	defer words.Close()
	cmd := exec.Command("/proc/self/exe", append([]string{"keep"}, args...)...)
	cmd.Stdout, cmd.Stderr = words, words
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case <-ended:
			b, _ := os.ReadFile(words.Name())
			return fmt.Errorf("the mesh did not start:\n%s", b)
		case <-time.After(10 * time.Millisecond):
		}
		if s, err := loadState(); err == nil {
			fmt.Fprintf(stdout, "up in %v\n", time.Since(started).Round(time.Millisecond))
			return printState(s, stdout)
		}
	}
}

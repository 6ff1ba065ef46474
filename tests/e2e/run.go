// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/cluster"
	"github.com/warren-mesh/warren/tests/e2e/testapp/answer"
)

// binary is where the test application lies in its image.
const binary = "/testapp"

// runWithin bounds what runs in a pod and says nothing else about its end.
const runWithin = time.Minute

// Exec runs the test application in the pod as `kubectl exec` does, by API server and kubelet, with the container's own
// privileges, and returns what it printed.
func (p *Pod) Exec(args ...string) (string, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), runWithin)
	defer cancel()
	out, stderr, err := p.mesh.Cluster.Exec(ctx, p.Namespace, p.Name, "", append([]string{binary}, args...)...)
	if err != nil {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr))
	}
	return out, err
}

// Run runs the test application in the pod's namespaces and cgroup without API server and kubelet, in milliseconds, as
// root with every privilege, and returns what it printed.
func (p *Pod) Run(args ...string) (string, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), runWithin)
	defer cancel()
	cmd, err := p.command(ctx, args...)
	if err != nil {
		return "", err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("run %q in %s: %w: %s", args, p, err, strings.TrimSpace(stderr.String()))
	}
	return string(out), err
}

// command prepares a run of the test application in the pod.
func (p *Pod) command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	main, err := p.process()
	if err != nil {
		return nil, err
	}
	cgroup, err := os.Open(main.Cgroup)
	if err != nil {
		return nil, err
	}
	// nsenter executes the application in its own place: signals and standard input reach it.
	join := []string{"--target", strconv.Itoa(main.PID), "--mount", "--net", "--uts", "--ipc", "--", binary}
	cmd := exec.CommandContext(ctx, "nsenter", append(join, args...)...)
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	context.AfterFunc(ctx, func() { cgroup.Close() })
	return cmd, nil
}

// process is the application's own in the pod: whose namespaces and cgroup the pod's are. It is pid 1 there, unlike what
// was started later.
func (p *Pod) process() (cluster.Process, error) {
	all, err := p.mesh.ProcessesByUID(p.Node, p.UID)
	if err != nil {
		return cluster.Process{}, err
	}
	for _, x := range all {
		if strings.HasPrefix(x.Command, binary) && firstInPod(x.PID) {
			return x, nil
		}
	}
	return cluster.Process{}, fmt.Errorf("find the application of %s: none among %+v", p, all)
}

func firstInPod(pid int) bool {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "NSpid:" {
			return f[len(f)-1] == "1"
		}
	}
	return false
}

// Load is a load that runs in a pod. It needs neither API server nor kubelet, and ends with the test.
type Load struct {
	t      testing.TB
	cmd    *exec.Cmd
	stdin  io.Closer
	out    strings.Builder
	stderr strings.Builder
	done   chan error
	cancel context.CancelFunc
}

// Load starts one: args are those of the application's verb load.
func (p *Pod) Load(args ...string) *Load {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd, err := p.command(ctx, append([]string{"load"}, args...)...)
	if err != nil {
		cancel()
		p.t.Fatal(err)
	}
	l := &Load{t: p.t, cmd: cmd, done: make(chan error, 1), cancel: cancel}
	cmd.Stdout, cmd.Stderr = &l.out, &l.stderr
	if l.stdin, err = cmd.StdinPipe(); err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		p.t.Fatal(err)
	}
	go func() { l.done <- cmd.Wait() }()
	p.t.Cleanup(cancel)
	return l
}

// Stop ends the load and returns what became of it. A load whose pod died has none.
func (l *Load) Stop() answer.Load {
	l.t.Helper()
	_ = l.stdin.Close()
	return l.Wait()
}

// Wait waits until the load ends by itself, as it does when all it held is lost.
func (l *Load) Wait() answer.Load {
	l.t.Helper()
	var err error
	select {
	case err = <-l.done:
	case <-time.After(30 * time.Second):
		err = errors.New("it does not end")
	}
	_ = l.stdin.Close()
	l.cancel()
	var a answer.Load
	if err == nil {
		err = json.Unmarshal([]byte(l.out.String()), &a)
	}
	if err != nil {
		l.t.Fatalf("load: %v: %s", err, l.stderr.String())
	}
	return a
}

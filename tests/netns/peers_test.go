// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/testutil"
)

// buildPeer builds a program of a test module beside this one: somebody else's code, which this module must not
// depend on.
func buildPeer(t *testing.T, module, pkg string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), filepath.Base(module)+"-peer")
	cmd := exec.Command("go", "build", "-C", filepath.Join("..", module), "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s of tests/%s: %v\n%s", pkg, module, err, out)
	}
	return path
}

// runPeer runs a program in the pod until the test ends or kill is called, and waits until ready finds it at work.
func runPeer(t *testing.T, p *Pod, ready func() error, name string, args ...string) (kill func()) {
	t.Helper()
	path := p.Node.mesh.logPath(filepath.Base(name) + "-" + p.Name)
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cgroup, err := p.container("peer")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := (place{net: p.PID(), mnt: p.PID(), cgroup: cgroup}).start(cmd); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	kill = func() {
		_ = cmd.Process.Kill()
		<-done
	}
	t.Cleanup(kill)
	testutil.Eventually(t, 90*time.Second, name+" is ready in "+p.String()+"; see "+path, func() bool {
		select {
		case <-done:
			b, _ := os.ReadFile(path)
			t.Fatalf("%s has ended: %s", name, lastLines(string(b), 5))
		default:
		}
		return ready() == nil
	})
	return kill
}

// answers reports whether a page of the pod answers with 200.
func answers(p *Pod, url string) error {
	_, status, err := p.Get(url)
	if err == nil && status != 200 {
		err = fmt.Errorf("status %d", status)
	}
	return err
}

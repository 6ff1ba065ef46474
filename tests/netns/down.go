// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// goneWithin is how long the kernel may take to clean up a namespace or a program whose last user is gone. It takes one
// after the other for the whole machine: behind a cluster that is taken down there is a queue.
var goneWithin = 30 * time.Second

// Down takes everything down and fails the test when something of it is left, naming it. After a failed test it first
// prints how to look inside, and keeps objects and logs. Calling it again does nothing.
func (m *Mesh) Down() {
	m.t.Helper()
	m.mu.Lock()
	if m.down {
		m.mu.Unlock()
		return
	}
	m.down = true
	m.mu.Unlock()
	if m.t.Failed() {
		m.keep()
		m.hold()
	}
	for _, leak := range m.tearDown() {
		m.t.Errorf("left behind: %s", leak)
	}
}

// keep copies objects and logs out of the directory that is about to go, and shows the logs' last lines.
func (m *Mesh) keep() {
	kept := filepath.Join(os.TempDir(), "warren-kept", strings.ReplaceAll(m.t.Name(), "/", "_"))
	_ = os.RemoveAll(kept)
	for _, d := range []string{"manifests", "logs"} {
		if err := os.CopyFS(filepath.Join(kept, d), os.DirFS(m.path(d))); err != nil {
			m.t.Logf("keep %s: %v", d, err)
		}
	}
	m.t.Logf("objects and logs are kept in %s; WARREN_HOLD=10m keeps a failed mesh up for that long, to be looked at by\n%s", kept, m.Inspect())
	logs, _ := filepath.Glob(m.path("logs/*.log"))
	for _, path := range logs {
		if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
			m.t.Logf("--- %s\n%s", filepath.Base(path), lastLines(string(b), 20))
		}
	}
}

// hold leaves a failed mesh up for the time that WARREN_HOLD gives, or until its file "hold" is removed. It speaks to the
// terminal itself: the test's own log is only shown at its end.
func (m *Mesh) hold() {
	d, err := time.ParseDuration(os.Getenv("WARREN_HOLD"))
	if err != nil || d <= 0 {
		return
	}
	file := m.path("hold")
	if os.WriteFile(file, nil, 0o644) != nil {
		return
	}
	fmt.Fprintf(os.Stderr, "\n%s failed; its mesh stays up for %v, or until rm %s\n%s", m.t.Name(), d, file, m.Inspect())
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if _, err := os.Stat(file); err != nil {
			return
		}
	}
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if len(lines) > n {
		lines = append([]string{fmt.Sprintf("(%d lines before)", len(lines)-n)}, lines[len(lines)-n:]...)
	}
	return strings.Join(lines, "\n")
}

// tearDown goes from the inside to the outside. A network namespace that somebody still holds is seen by its veth, whose
// other end stays in the namespace around it: hence the order, with a look after each step.
func (m *Mesh) tearDown() []string {
	var leaks []string
	owned := m.kernelObjects()
	for _, p := range m.pods {
		p.holds.close()
	}
	for _, n := range m.nodes {
		leaks = append(leaks, m.killed(filepath.Join(n.Cgroup, "kubepods"))...)
		leaks = append(leaks, waitForLinks("pod", n.sandbox, "lo", "eth0")...)
	}
	for _, p := range m.pods {
		p.sandbox.close()
	}
	for _, n := range m.nodes {
		leaks = append(leaks, m.killed(n.Cgroup)...)
		n.sandbox.close()
	}
	if m.wire != nil {
		leaks = append(leaks, waitForLinks("node", m.wire.sandbox, "lo", "wire")...)
		leaks = append(leaks, m.killed(m.cgroup)...)
		m.wire.close()
	}
	if err := removeCgroup(m.cgroup); err != nil {
		leaks = append(leaks, err.Error())
	}
	leaks = append(leaks, owned.stillThere()...)
	leaks = append(leaks, m.before.changes()...)
	if err := os.RemoveAll(m.dir); err != nil {
		leaks = append(leaks, err.Error())
	}
	return leaks
}

func (m *Mesh) killed(cgroup string) []string {
	if err := killCgroup(cgroup, goneWithin); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// waitForLinks waits until the sandbox has no links but the named ones, and names the namespaces behind those it still has.
func waitForLinks(what string, s *sandbox, expected ...string) []string {
	l, err := s.links()
	if err != nil {
		return []string{err.Error()}
	}
	defer l.Close()
	for end := time.Now().Add(goneWithin); ; time.Sleep(5 * time.Millisecond) {
		extra, err := l.others(expected)
		if err != nil {
			return []string{err.Error()}
		}
		if len(extra) == 0 {
			return nil
		}
		if time.Now().After(end) {
			for i, name := range extra {
				extra[i] = fmt.Sprintf("the network namespace of a %s behind link %s of %s: a socket in it is still open", what, name, s.name)
			}
			return extra
		}
	}
}

func (l links) others(expected []string) ([]string, error) {
	all, err := l.list()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, link := range all {
		if name := link.Attrs().Name; !contains(expected, name) && !automatic(link) {
			out = append(out, name)
		}
	}
	return out, nil
}

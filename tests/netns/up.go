// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Up starts Warren on all nodes made so far, and waits until every part is ready and every enrolled pod is captured.
// It fails the test, and names what is pending, when that takes longer than Options.ReadyWithin.
func (m *Mesh) Up() {
	m.t.Helper()
	if err := m.deploy(); err != nil {
		m.t.Fatalf("start Warren: %v", err)
	}
	end := time.Now().Add(m.options.ReadyWithin)
	for {
		pending := m.Pending()
		if len(pending) == 0 {
			break
		}
		if time.Now().After(end) {
			m.t.Fatalf("not up after %v; pending:\n  %s", m.options.ReadyWithin, strings.Join(pending, "\n  "))
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, p := range m.Pods() {
		if m.enrolled(p) {
			m.WaitCaptured(p, "true")
		}
	}
}

func (m *Mesh) deploy() error {
	if m.options.Binaries == "" {
		if _, err := Binaries(); err != nil {
			return err
		}
	}
	if err := checkBinaries(m.bin); err != nil {
		return err
	}
	m.mu.Lock()
	if len(m.nodes) == 0 {
		m.mu.Unlock()
		return errors.New("the mesh has no node")
	}
	m.mu.Unlock()
	if err := m.deployControl(); err != nil {
		return err
	}
	for _, n := range m.Nodes() {
		if err := n.deploy(); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.up = true
	m.settleLocked()
	return nil
}

// Pending names what of Warren is not ready: "warren-agent on node a: state-synced, broker".
func (m *Mesh) Pending() []string {
	processes := []*Process{m.control}
	for _, n := range m.Nodes() {
		processes = append(processes, n.System.processes()...)
	}
	var out []string
	for _, p := range processes {
		if p == nil || p.Name == "warren-broker" { // the agent reports for the broker
			continue
		}
		if err := p.Ready(); err != nil {
			out = append(out, fmt.Sprintf("%s: %v", p, err))
		}
	}
	return out
}

// Ready asks the process's readiness endpoint.
func (p *Process) Ready() error {
	if !p.Running() {
		return fmt.Errorf("it has ended; its log: %s", lastLines(p.Output(), 3))
	}
	body, status, err := p.Pod.Get("http://localhost:15021/healthz/ready")
	switch {
	case err != nil:
		return err
	case status != http.StatusOK:
		return errors.New(strings.TrimSpace(body))
	}
	return nil
}

// Get fetches a URL from inside the pod's network, where "localhost" is the pod itself, and returns body and status.
func (p *Pod) Get(url string) (string, int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", 0, err
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return p.sandbox.dial(ctx, network, address, nil)
		},
	}}
	response, err := client.Do(request)
	if err != nil {
		return "", 0, err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	return string(b), response.StatusCode, err
}

// Captured returns what the pod's node published about it: "true", a reason word, or "" when nothing.
func (m *Mesh) Captured(p *Pod) string { return captured(m.Manifests(), p.Namespace, p.Name, p.UID) }

// captured reads the published state of the pod of that uid: a former pod's of the same name doesn't count.
func captured(manifests, namespace, name, uid string) string {
	b, err := os.ReadFile(filepath.Join(manifests, "status", "pods", namespace, name+".json"))
	if err != nil {
		return ""
	}
	var status struct{ UID, Captured string }
	if json.Unmarshal(b, &status) != nil || status.UID != uid {
		return ""
	}
	return status.Captured
}

// WaitCaptured waits until the pod's published state is want, and fails the test when it takes too long.
func (m *Mesh) WaitCaptured(p *Pod, want string) {
	m.t.Helper()
	for end := time.Now().Add(m.options.ReadyWithin); ; time.Sleep(5 * time.Millisecond) {
		got := m.Captured(p)
		if got == want {
			return
		}
		if time.Now().After(end) {
			debug := ""
			if a := p.Node.System.Agent; a != nil {
				debug, _, _ = a.Pod.Get("http://localhost:15000/debug/pods")
			}
			m.t.Fatalf("pod %s: published %q, want %q; the agent of node %s says:\n%s", p, got, want, p.Node.Name, debug)
		}
	}
}

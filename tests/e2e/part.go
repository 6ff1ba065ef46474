// SPDX-License-Identifier: Apache-2.0

package e2e

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
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/tests/cluster"
)

// Part is one of Warren's parts on a node, or control: whatever pods of it there are at the moment. All but Pods works
// without API server, too.
type Part struct {
	t    testing.TB
	mesh *Mesh
	node string // empty: any
	name string // of the DaemonSet or Deployment
	main string // of the container
}

// Ztunnel of a node.
func (m *Mesh) Ztunnel(t testing.TB, node string) *Part {
	return &Part{t, m, node, ztunnelName, "ztunnel"}
}

// Agent of a node.
func (m *Mesh) Agent(t testing.TB, node string) *Part { return &Part{t, m, node, nodeName, "agent"} }

// Broker of a node.
func (m *Mesh) Broker(t testing.TB, node string) *Part { return &Part{t, m, node, nodeName, "broker"} }

// Control is all replicas of it.
func (m *Mesh) Control(t testing.TB) *Part { return &Part{t, m, "", controlName, "control"} }

// Pods are the part's pods on its node, newest first.
func (p *Part) Pods() []corev1.Pod {
	p.t.Helper()
	list, err := p.mesh.Client().CoreV1().Pods(system).List(p.t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + p.name})
	if err != nil {
		p.t.Fatal(err)
	}
	pods := slices.DeleteFunc(list.Items, func(o corev1.Pod) bool { return p.node != "" && o.Spec.NodeName != p.node })
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return b.CreationTimestamp.Compare(a.CreationTimestamp.Time) })
	return pods
}

func (p *Part) nodes() []string {
	if p.node != "" {
		return []string{p.node}
	}
	return p.mesh.Nodes()
}

// Log is what the part's container has written on the node: of all its pods and restarts that the node still knows, in
// order of time. It is read from the node's disk.
func (p *Part) Log() string { return p.LogSince(time.Time{}) }

// LogSince is what was written after a moment.
func (p *Part) LogSince(moment time.Time) string {
	p.t.Helper()
	var lines []string
	for _, node := range p.nodes() {
		pid, err := p.mesh.PID(node)
		if err != nil {
			p.t.Fatal(err)
		}
		pattern := fmt.Sprintf("/proc/%d/root/var/log/pods/%s_%s-*/%s/*.log*", pid, system, p.name, p.main)
		files, err := filepath.Glob(pattern)
		if err != nil {
			p.t.Fatal(err)
		}
		for _, f := range files {
			b, _ := os.ReadFile(f)
			lines = append(lines, linesAfter(string(b), moment.UTC().Format(logTime))...)
		}
	}
	slices.Sort(lines)
	var out strings.Builder
	for _, line := range lines {
		if f := strings.SplitN(line, " ", 4); len(f) == 4 {
			out.WriteString(f[3])
		}
	}
	return out.String()
}

// logTime is how containerd begins a line: "2026-01-02T03:04:05.678901234Z stderr F what was written".
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

// linesAfter are the lines from a time on. Those of standard output and standard error are not always in order.
func linesAfter(log, moment string) []string {
	return slices.DeleteFunc(strings.SplitAfter(log, "\n"), func(line string) bool { return line < moment })
}

// PIDs are the running processes whose program is the part's, oldest first: the supervisor and its child.
func (p *Part) PIDs() []int {
	p.t.Helper()
	var pids []int
	for _, x := range p.processes() {
		pids = append(pids, x.PID)
	}
	slices.Sort(pids)
	return pids
}

// supervisor is how the command line of a part's supervisor begins.
const supervisor = "/warren-supervise "

// runs says of a process whether it is the part's, or supervises it.
func (p *Part) runs(x cluster.Process) bool {
	return strings.HasPrefix(strings.TrimPrefix(x.Command, supervisor), "/warren-"+p.main+" ")
}

func (p *Part) processes() []cluster.Process {
	p.t.Helper()
	var all []cluster.Process
	for _, node := range p.nodes() {
		list, err := p.mesh.ProcessesOn(node)
		if err != nil {
			p.t.Fatal(err)
		}
		for _, x := range list {
			if p.runs(x) {
				all = append(all, x)
			}
		}
	}
	return all
}

// Get asks one of the part's own pages, such as "http://localhost:15000/config_dump", from within its pod's network; of
// several pods the newest that answers.
func (p *Part) Get(url string) (string, error) {
	p.t.Helper()
	errs := errors.New("no process of " + p.name + " on " + p.node)
	list := p.processes()
	slices.SortFunc(list, func(a, b cluster.Process) int { return b.PID - a.PID })
	for _, x := range list {
		body, err := getFrom(p.t.Context(), fmt.Sprintf("/proc/%d/ns/net", x.PID), url)
		if err == nil {
			return body, nil
		}
		errs = err
	}
	return "", errs
}

// JSON asks a page and decodes it.
func (p *Part) JSON(url string, into any) error {
	p.t.Helper()
	body, err := p.Get(url)
	if err == nil {
		err = json.Unmarshal([]byte(body), into)
	}
	return err
}

// Metrics is the part's page of metrics.
func (p *Part) Metrics() string {
	p.t.Helper()
	body, err := p.Get("http://localhost:15020/metrics")
	if err != nil {
		p.t.Fatalf("metrics of %s on %s: %v", p.name, p.node, err)
	}
	return body
}

// getFrom asks an HTTP page by a socket of another network namespace.
func getFrom(ctx context.Context, namespace, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return dialIn(ctx, namespace, network, address)
	}}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := c.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("get %s: %s: %s", url, answer.Status, b)
	}
	return string(b), err
}

// dialIn dials on a thread that joined the namespace and ends with this call.
func dialIn(ctx context.Context, namespace, network, address string) (net.Conn, error) {
	type dialed struct {
		c   net.Conn
		err error
	}
	done := make(chan dialed, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		ns, err := os.Open(namespace)
		if err != nil {
			done <- dialed{nil, err}
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- dialed{nil, os.NewSyscallError("setns", err)}
			return
		}
		// One address only: with more, the dialer would use another thread.
		host, port, err := net.SplitHostPort(address)
		if host == "localhost" {
			host = "127.0.0.1"
		}
		if err != nil {
			done <- dialed{nil, err}
			return
		}
		c, err := (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, net.JoinHostPort(host, port))
		done <- dialed{c, err}
	}()
	d := <-done
	return d.c, d.err
}

// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// down takes the part's process away, and keeps its supervisor from starting another until up is called, or the test ends.
func (p *Part) down() (up func()) {
	p.t.Helper()
	var supervisors []int
	for _, x := range p.processes() {
		if strings.HasPrefix(x.Command, supervisor) {
			supervisors = append(supervisors, x.PID)
		}
	}
	children := p.children()
	if len(supervisors) == 0 || len(children) == 0 {
		p.t.Fatalf("%s on %s: supervisors %v, children %v", p.main, p.node, supervisors, children)
	}
	signal(p.t, syscall.SIGSTOP, supervisors)
	up = sync.OnceFunc(func() { signal(p.t, syscall.SIGCONT, supervisors) })
	p.t.Cleanup(up)
	signal(p.t, syscall.SIGKILL, children)
	return up
}

func signal(t testing.TB, s syscall.Signal, pids []int) {
	t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, s); err != nil {
			t.Errorf("kill -%d %d: %v", s, pid, err)
		}
	}
}

// startsWithin is how soon a pod that waited for the mesh starts when it is back: it waits all the time, or the kubelet's
// pause between two tries (10 to 15 s) has just begun.
const startsWithin = 25 * time.Second

// TestPodStartWithoutMesh takes the agent of one node away and the broker of the other: pods of the mesh wait and say why, pods
// outside start, and the former as soon as the mesh is back, captured from their first connection on.
func TestPodStartWithoutMesh(t *testing.T) {
	m := Alone(t)
	n := m.Nodes()
	ns, out := m.Namespace(t, "waiting", Enrolled()), m.Namespace(t, "outside")
	server := ns.Deploy(App{Name: "server", Node: n[1]})[0]
	parts := []*Part{m.Agent(t, n[0]), m.Broker(t, n[1])}
	var ups []func()
	var inside, outside []App
	for _, p := range parts {
		ups = append(ups, p.down())
		inside = append(inside, App{Name: "in-" + p.node, Account: "in", Node: p.node, Args: []string{"talk", "-stay", "-timeout", "20s", server.Addr("tcp4", EchoPort).String(), "hello"}})
		outside = append(outside, App{Name: "out-" + p.node, Account: "out", Node: p.node})
	}
	ns.Create(inside...)
	began := time.Now()
	out.Deploy(outside...)
	t.Logf("pods outside the mesh were ready after %v", time.Since(began).Round(time.Millisecond))
	for i, p := range parts {
		message := ns.event(t, inside[i].Name, "FailedCreatePodSandBox", "warren: pod "+ns.Name+"/"+inside[i].Name)
		t.Logf("without %s, after %v: %s", p.main, time.Since(began).Round(time.Second), message)
		for _, word := range []string{"not started", "warren-" + p.main, "the kubelet tries again"} {
			if !strings.Contains(message, word) {
				t.Errorf("without %s the event says nothing of %q: %s", p.main, word, message)
			}
		}
	}
	for _, pod := range ns.Pods("") {
		if pod.Account == "in" && pod.IPv4.IsValid() {
			t.Errorf("%s runs", pod)
		}
	}
	back := time.Now()
	for _, up := range ups {
		up()
	}
	for _, a := range inside {
		pod := ns.Wait(a)[0]
		t.Logf("%s runs %v after the mesh is back", pod, time.Since(back).Round(time.Millisecond))
		checkFirstTalk(t, m, pod, server)
	}
	if took := time.Since(back); took > startsWithin {
		t.Errorf("pods that waited started %v after the mesh was back, want %v", took, startsWithin)
	}
}

// checkFirstTalk wants the pod's first connection to have gone through the mesh.
func checkFirstTalk(t *testing.T, m *Mesh, pod, server *Pod) {
	t.Helper()
	a := pod.firstTalk()
	if !a.OK() || a.Pod != server.Name {
		t.Errorf("%s: %+v", pod, a)
		return
	}
	client, destination := m.evidence(t, pod.Node), m.evidence(t, server.Node)
	client.Line("src.addr="+a.Local, "src.workload="+pod.Name, "direction=outbound", "dst.identity="+server.Identity())
	// The server's node may not know the pod by its address yet.
	destination.Line("src.identity="+pod.Identity(), "dst.workload="+server.Name, "direction=inbound")
}

// evidence is all that the node's ztunnel has written.
func (m *Mesh) evidence(t *testing.T, node string) *Evidence {
	return &Evidence{t: t, mesh: m, node: node}
}

// TestPodStartWithSlowAPIServer lets the API server work for a tenth of the time only. Pods start later, and all captured.
func TestPodStartWithSlowAPIServer(t *testing.T) {
	const pods = 6
	m := Alone(t)
	ns := m.Namespace(t, "slow", Enrolled())
	n := m.Nodes()
	server := ns.Deploy(App{Name: "server", Node: n[1]})[0]
	stop := m.stutter(t)
	began := time.Now()
	client := App{Name: "client", Node: n[0], Replicas: pods,
		Args: []string{"talk", "-stay", "-timeout", "20s", server.Addr("tcp4", EchoPort).String(), "hello"}}
	fresh := ns.Deploy(client)
	t.Logf("%d pods ready after %v", pods, time.Since(began).Round(time.Millisecond))
	stop()
	for _, p := range fresh {
		checkFirstTalk(t, m, p, server)
	}
}

// TestPodStartWithDeafAgent has a kubelet start a pod of which the node's agent hears nothing from the API server yet: the
// plugin waits for it, and the pod's first connection is captured.
func TestPodStartWithDeafAgent(t *testing.T) {
	m := Alone(t)
	ns := m.Namespace(t, "deaf", Enrolled())
	n := m.Nodes()
	server := ns.Deploy(App{Name: "server", Node: n[1]})[0]
	hear := m.deafen(t, n[0])
	client := App{Name: "client", Node: n[0], Args: []string{"talk", "-stay", "-timeout", "20s", server.Addr("tcp4", EchoPort).String(), "hello"}}
	ns.Create(client)
	const patience = 2 * time.Second
	seen := map[int]time.Time{}
	Eventually(t, 15*time.Second, fmt.Sprintf("a plugin waits for %v", patience), func() string {
		for _, pid := range m.processesOf(t, n[0], "/warren-cni\x00") {
			if at, ok := seen[pid]; !ok {
				seen[pid] = time.Now()
			} else if time.Since(at) > patience {
				return ""
			}
		}
		return fmt.Sprint("plugins seen: ", seen)
	})
	hear()
	for _, p := range ns.Wait(client) {
		checkFirstTalk(t, m, p, server)
	}
}

// deafen drops what goes between the node's agent and the API server, until hear is called or the test ends.
func (m *Mesh) deafen(t *testing.T, node string) (hear func()) {
	t.Helper()
	rules := "add table inet deaf\nadd chain inet deaf between { type filter hook forward priority -10; }\n"
	for _, ip := range m.Agent(t, node).Pods()[0].Status.PodIPs {
		family := "ip"
		if strings.Contains(ip.IP, ":") {
			family = "ip6"
		}
		for _, way := range []string{"saddr", "daddr"} {
			rules += fmt.Sprintf("add rule inet deaf between %s %s %s drop\n", family, way, ip.IP)
		}
	}
	if _, err := m.NodeShellInput(t.Context(), node, strings.NewReader(rules), "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	hear = sync.OnceFunc(func() {
		if _, err := m.NodeShell(context.WithoutCancel(t.Context()), node, "nft", "delete", "table", "inet", "deaf"); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(hear)
	return hear
}

// stutter stops the API server's process for 450 ms of every 500.
func (m *Mesh) stutter(t *testing.T) (stop func()) {
	t.Helper()
	pid := m.apiServer(t)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer syscall.Kill(pid, syscall.SIGCONT)
		for s, during := syscall.SIGSTOP, 450*time.Millisecond; syscall.Kill(pid, s) == nil; {
			select {
			case <-done:
				return
			case <-time.After(during):
			}
			if s == syscall.SIGSTOP {
				s, during = syscall.SIGCONT, 50*time.Millisecond
			} else {
				s, during = syscall.SIGSTOP, 450*time.Millisecond
			}
		}
	}()
	stop = sync.OnceFunc(func() { close(done); <-ended })
	t.Cleanup(stop)
	return stop
}

// apiServer is the process, as this machine counts.
func (m *Mesh) apiServer(t *testing.T) int {
	t.Helper()
	pids := m.processesOf(t, "control", "\x00kube-apiserver\x00")
	if len(pids) == 0 {
		t.Fatal("no process of the API server")
	}
	return pids[0]
}

// processesOf are those of a machine itself, not of its pods, in whose arguments, each ended by a zero, something stands.
func (m *Mesh) processesOf(t *testing.T, machine, arguments string) (pids []int) {
	t.Helper()
	first, err := m.PID(machine)
	if err != nil {
		t.Fatal(err)
	}
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", first))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range entries {
		if link, err := os.Readlink("/proc/" + o.Name() + "/ns/pid"); err != nil || link != space {
			continue
		}
		if b, _ := os.ReadFile("/proc/" + o.Name() + "/cmdline"); strings.Contains(string(b), arguments) {
			pid := 0
			fmt.Sscan(o.Name(), &pid)
			pids = append(pids, pid)
		}
	}
	return pids
}

// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/warren-mesh/warren/tests/e2e/testapp/answer"
)

// every probes once a second. One failure is one too many, which events tell: the kubelet itself bears three.
func every(h corev1.ProbeHandler) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: h, PeriodSeconds: 1, TimeoutSeconds: 5, FailureThreshold: 3}
}

func webProbe(path string) corev1.ProbeHandler {
	return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("web"),
		HTTPHeaders: []corev1.HTTPHeader{{Name: "Host", Value: "probe.example"}}}}
}

func tcpProbe(host string, port intstr.IntOrString) corev1.ProbeHandler {
	return corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Host: host, Port: port}}
}

// probed is an app with these probes as startup, readiness and liveness probe.
func probed(name, node string, h corev1.ProbeHandler) App {
	return App{Name: name, Node: node, NoProbe: true, Change: func(t *corev1.PodTemplateSpec) {
		c := &t.Spec.Containers[0]
		c.Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: HTTPPort}, {Name: "echo", ContainerPort: EchoPort}}
		c.StartupProbe, c.ReadinessProbe, c.LivenessProbe = every(h), every(h), every(h)
		c.StartupProbe.FailureThreshold = 30
	}}
}

// probing is a namespace under STRICT with a server on the first node, whose kubelet probes it in every way there is.
type probing struct {
	*Mesh
	ns     *Namespace
	server *Pod
	pods   []*Pod
}

func newProbing(t *testing.T, m *Mesh) *probing {
	t.Helper()
	node := m.Nodes()[0]
	p := &probing{Mesh: m, ns: m.Namespace(t, "probed", Enrolled())}
	p.ns.Strict(true)
	p.server = p.ns.Deploy(probed("http", node, webProbe("/?host=probe.example")))[0]
	return p
}

// more deploys one app for each other kind of probe. The kubelet knows a pod's first address alone; the other family it
// takes as the host to ask.
func (p *probing) more() {
	node := p.server.Node
	https := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(TLSPort), Scheme: corev1.URISchemeHTTPS}}
	grpc := corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: GRPCPort}}
	exec := corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{binary, "exit", "0"}}}
	sixth := webProbe("/?host=probe.example")
	sixth.HTTPGet.Host = p.server.IPv6.String()
	hooked := probed("hooked", node, tcpProbe(p.server.IPv6.String(), intstr.FromString("echo")))
	probes := hooked.Change
	hooked.Change = func(t *corev1.PodTemplateSpec) {
		probes(t)
		grace := int64(10)
		t.Spec.TerminationGracePeriodSeconds = &grace
		hook := func(host string) *corev1.LifecycleHandler {
			return &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Host: host, Port: intstr.FromInt32(HTTPPort)}}
		}
		t.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: hook(p.server.IPv4.String()), PreStop: hook("")}
	}
	p.pods = p.ns.Deploy(probed("tcp", node, tcpProbe("", intstr.FromString("echo"))), probed("https", node, https), probed("grpc", node, grpc),
		probed("exec", node, exec), probed("http6", node, sixth), hooked)
}

// TestProbes has the kubelet probe captured pods under STRICT in every way; whoever else comes from the node's own network is
// refused.
func TestProbes(t *testing.T) {
	p := newProbing(t, SharedForLong(t))
	out := p.Namespace(t, "host")
	intruder := App{Name: "intruder", Node: p.server.Node, Host: true, Args: []string{"sleep", "1h"}}
	out.Create(intruder)
	sick := probed("sick", p.server.Node, webProbe("/?status=503"))
	p.ns.Create(sick)
	e := p.Witness(t, p.server.Node)
	p.more()
	host := out.Wait(intruder)[0]

	t.Run("pods live", func(t *testing.T) {
		Eventually(t, 30*time.Second, "the kernel counts probes", func() string {
			if n := e.Grown("PROBE"); n < 40 {
				return fmt.Sprint("it counted ", n)
			}
			return ""
		})
		for _, pod := range append(p.pods, p.server) {
			p.healthy(t, pod)
			if lines := e.In(t).Lines("dst.workload="+pod.Name, "direction=inbound"); len(lines) > 0 {
				t.Errorf("the mesh saw probes of %s: %s", pod, lines[0])
			}
		}
	})
	t.Run("the probe reaches the application", func(t *testing.T) {
		p.event(t, sick.Name, "Unhealthy", "HTTP probe failed with statuscode: 503")
	})
	t.Run("hooks", func(t *testing.T) {
		hooked := p.pods[len(p.pods)-1]
		if err := p.Client().CoreV1().Pods(hooked.Namespace).Delete(t.Context(), hooked.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		p.event(t, hooked.Name, "Killing", "")
		Eventually(t, 30*time.Second, hooked.Name+" ends", func() string {
			for _, o := range p.ns.In(t).Pods("app=hooked") {
				if o.UID == hooked.UID {
					return "it is there"
				}
			}
			return ""
		})
		for _, reason := range []string{"FailedPostStartHook", "FailedPreStopHook"} {
			if found := p.events(t, "hooked", reason, ""); len(found) > 0 {
				t.Errorf("%s: %s", reason, found[0])
			}
		}
	})
	t.Run("logs, exec and port-forward", func(t *testing.T) { p.reachable(t) })
	p.intruders(t, host)
	p.healthy(t, p.server)
	for _, pod := range p.pods[:len(p.pods)-1] { // the hooked one ended
		p.healthy(t, pod)
	}
}

// healthy wants every probe of the pod to have passed since its startup probe did; before, its application may not listen
// yet.
func (p *probing) healthy(t *testing.T, pod *Pod) {
	t.Helper()
	if n := p.restarts(t, pod); n > 0 {
		t.Errorf("%s was restarted %d times", pod, n)
	}
	for _, text := range p.events(t, pod.Name, "Unhealthy", "") {
		if !strings.HasPrefix(text, "Startup probe ") {
			t.Errorf("a probe of %s failed: %s", pod, text)
		}
	}
}

// intruders are processes on the server's node that are not the kubelet. STRICT refuses them, PERMISSIVE writes down that they
// prove nothing.
func (p *probing) intruders(t *testing.T, host *Pod) {
	says := map[string]func(t *testing.T, network, address, line string) answer.Talk{
		"a hostNetwork pod": func(t *testing.T, network, address, line string) answer.Talk {
			return host.In(t).Talk(network, address, line)
		},
		"what kubectl exec starts in one": func(t *testing.T, network, address, line string) (a answer.Talk) {
			out, err := host.In(t).Exec("talk", "-network", network, address, line)
			if err == nil {
				err = json.Unmarshal([]byte(out), &a)
			}
			if err != nil {
				t.Fatal(err)
			}
			return a
		},
		"a process of the host": func(t *testing.T, network, address, line string) (a answer.Talk) {
			return p.hostProcess(t, host, network, address, line)
		},
	}
	for _, strict := range []bool{true, false} {
		p.ns.Strict(strict)
		if !strict {
			Eventually(t, told, "STRICT is over", func() string {
				if a := host.Talk("tcp4", p.server.Addr("tcp4", EchoPort).String(), "try"); !a.OK() {
					return fmt.Sprintf("%+v", a)
				}
				return ""
			})
		}
		for name, say := range says {
			for _, network := range []string{"tcp4", "tcp6"} {
				t.Run(fmt.Sprintf("%s, %s, STRICT %t", name, network, strict), func(t *testing.T) {
					e := p.Witness(t, p.server.Node)
					line := fmt.Sprintf("intruder-%d", time.Now().UnixNano())
					a := say(t, network, p.server.Addr(network, EchoPort).String(), line)
					heard := p.server.In(t).HeardLine(line) != nil
					if strict != a.IsReset() || strict == a.OK() || strict == heard {
						t.Errorf("got %+v; heard by the application: %t", a, heard)
					}
					reason := map[bool]string{true: "STRICT_MTLS", false: "INBOUND_PLAINTEXT"}[strict]
					parts := []string{"dst.workload=" + p.server.Name}
					if a.Local != "" { // a reset may come before the address is known
						parts = append(parts, "src.addr="+a.Local)
					}
					e.Ended("destination", reason, parts...)
				})
			}
		}
	}
}

// hostProcess talks from the node's network, by the test application in the cgroup "host" of the machine.
func (p *probing) hostProcess(t *testing.T, host *Pod, network, address, line string) (a answer.Talk) {
	t.Helper()
	main, err := host.In(t).process()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.NodeShell(t.Context(), host.Node, fmt.Sprintf("/proc/%s/root%s", pidOnNode(t, main.PID), binary), "talk", "-network", network, address, line)
	if err == nil {
		err = json.Unmarshal([]byte(out), &a)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// pidOnNode is what the node calls a process of one of its pods.
func pidOnNode(t *testing.T, pid int) string {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		// This machine's number, the node's, the pod's.
		if f := strings.Fields(line); len(f) == 4 && f[0] == "NSpid:" {
			return f[2]
		}
	}
	t.Fatalf("no three numbers of process %d:\n%s", pid, status)
	return ""
}

// reachable asks the API server for what it fetches from the pod by the kubelet.
func (p *probing) reachable(t *testing.T) {
	server := p.server.In(t)
	if !strings.Contains(server.Logs(), "serving as "+server.Name) {
		t.Errorf("logs: %q", server.Logs())
	}
	if _, err := server.Exec("exit", "0"); err != nil {
		t.Errorf("exec: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	page, err := p.Fetch(ctx, server.Namespace, server.Name, fmt.Sprintf("http://localhost:%d/", HTTPPort))
	if err != nil || !strings.Contains(page, server.Name) {
		t.Errorf("port-forward: %q, %v", page, err)
	}
}

func (p *probing) restarts(t *testing.T, pod *Pod) (n int32) {
	t.Helper()
	o, err := p.Client().CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range o.Status.ContainerStatuses {
		n += c.RestartCount
	}
	return n
}

// events of objects of the namespace whose name begins so.
func (n *Namespace) events(t *testing.T, name, reason, text string) []string {
	t.Helper()
	list, err := n.mesh.Client().CoreV1().Events(n.Name).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=" + reason})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, v := range list.Items {
		if strings.HasPrefix(v.InvolvedObject.Name, name) && strings.Contains(v.Message, text) {
			out = append(out, v.Message)
		}
	}
	return out
}

// event waits for such an event and returns its text.
func (n *Namespace) event(t *testing.T, name, reason, text string) string {
	t.Helper()
	var found []string
	Eventually(t, 40*time.Second, fmt.Sprintf("an event %s of %s with %q", reason, name, text), func() string {
		if found = n.events(t, name, reason, text); len(found) == 0 {
			return fmt.Sprint("there are ", n.events(t, name, reason, ""))
		}
		return ""
	})
	return found[0]
}

func (p *probing) events(t *testing.T, name, reason, text string) []string {
	return p.ns.events(t, name, reason, text)
}

func (p *probing) event(t *testing.T, name, reason, text string) string {
	return p.ns.event(t, name, reason, text)
}

// TestKubeletRestart ends the kubelet, and then as systemd does, whose unit's cgroup goes and comes with it. Each time the new
// one is told from others soon enough that a captured pod under STRICT notices nothing.
func TestKubeletRestart(t *testing.T) {
	p := newProbing(t, Alone(t))
	node := p.server.Node
	for _, tt := range []struct {
		name    string
		restart func(ctx context.Context) error
	}{
		{"killed", func(ctx context.Context) error { return p.Kill(ctx, node+"/kubelet") }},
		{"in a cgroup made anew", func(ctx context.Context) error {
			if err := p.Stop(ctx, node+"/kubelet"); err != nil {
				return err
			}
			_, err := p.NodeShell(ctx, node, "sh", "-c", "for d in /sys/fs/cgroup /sys/fs/cgroup/unified; do rmdir $d/kubelet 2>/dev/null && exit; done; exit 1")
			return errors.Join(err, p.Start(ctx, node+"/kubelet"))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			e := p.Witness(t, node)
			Eventually(t, 30*time.Second, "the kernel counts probes of the new kubelet", func() string {
				if n := e.Grown("PROBE"); n < 6 {
					return fmt.Sprint("it counted ", n)
				}
				return ""
			})
			t.Logf("six probes after %v; refused until then: %d", time.Since(began).Round(time.Millisecond),
				len(e.Lines("dst.workload="+p.server.Name, "reason=STRICT_MTLS")))
			if n := p.restarts(t, p.server); n > 0 {
				t.Errorf("the pod was restarted %d times", n)
			}
		})
	}
}

// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/tests/e2e/testapp/answer"
)

// capturedAnnotation is where a pod's node says whether the pod is captured.
const capturedAnnotation = "warren.dev/captured"

// Pod is a pod that runs.
type Pod struct {
	t          testing.TB
	mesh       *Mesh
	Namespace  string
	Name       string
	App        string // the label "app"
	Account    string
	UID        string
	Node       string
	IPv4, IPv6 netip.Addr
}

func (n *Namespace) pod(p corev1.Pod) *Pod { return n.mesh.pod(n.t, p) }

func (m *Mesh) pod(t testing.TB, p corev1.Pod) *Pod {
	out := &Pod{t: t, mesh: m, Namespace: p.Namespace, Name: p.Name, App: p.Labels["app"], Account: p.Spec.ServiceAccountName,
		UID: string(p.UID), Node: p.Spec.NodeName}
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil && a.Is4() {
			out.IPv4 = a
		} else if err == nil {
			out.IPv6 = a
		}
	}
	return out
}

// Pods are those with a label ("app=x"), as they are now.
func (n *Namespace) Pods(selector string) []*Pod {
	n.t.Helper()
	list, err := n.mesh.Client().CoreV1().Pods(n.Name).List(n.t.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		n.t.Fatal(err)
	}
	var out []*Pod
	for _, p := range list.Items {
		out = append(out, n.pod(p))
	}
	return out
}

// In is the same pod in a subtest.
func (p *Pod) In(t testing.TB) *Pod {
	sub := *p
	sub.t = t
	return &sub
}

func (p *Pod) String() string { return p.Namespace + "/" + p.Name }

// Addr is the pod's address of a family ("tcp4", "tcp6") with a port.
func (p *Pod) Addr(network string, port uint16) netip.AddrPort {
	if network == "tcp6" {
		return netip.AddrPortFrom(p.IPv6, port)
	}
	return netip.AddrPortFrom(p.IPv4, port)
}

// Identity is the pod's.
func (p *Pod) Identity() string {
	return (&Namespace{Name: p.Namespace}).Identity(p.Account)
}

// Captured is what the pod's node says about it now: "true", a reason, or "".
func (p *Pod) Captured() string {
	p.t.Helper()
	o, err := p.mesh.Client().CoreV1().Pods(p.Namespace).Get(p.t.Context(), p.Name, metav1.GetOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	return o.Annotations[capturedAnnotation]
}

// WaitCaptured waits until the pod's node says this about it.
func (p *Pod) WaitCaptured(want string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	_, err := p.mesh.watchPods(ctx, p.Namespace, "", func(all []corev1.Pod) string {
		for _, o := range all {
			if got := o.Annotations[capturedAnnotation]; string(o.UID) == p.UID && got != want {
				return fmt.Sprintf("%s is %q", capturedAnnotation, got)
			}
		}
		return ""
	})
	if err != nil {
		p.t.Fatalf("wait for %s of %s to be %q: %v", capturedAnnotation, p, want, err)
	}
}

// Logs is what the application printed.
func (p *Pod) Logs() string {
	p.t.Helper()
	s, err := p.mesh.Cluster.Logs(p.t.Context(), p.Namespace, p.Name, "")
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// Talk has one conversation with an echo server from the pod. That it failed is in the answer.
func (p *Pod) Talk(network, address, line string, flags ...string) answer.Talk {
	p.t.Helper()
	var a answer.Talk
	p.ask(&a, append(append([]string{"talk", "-network", network}, flags...), address, line)...)
	return a
}

// Reaches waits until an echo server answers there: a pod's readiness and a Service's endpoints travel to the nodes after
// Deploy has seen them.
func (p *Pod) Reaches(network, address string) {
	p.t.Helper()
	Eventually(p.t, 2*told, fmt.Sprintf("%s reaches %s", p, address), func() string {
		if a := p.Talk(network, address, "are you there"); !a.OK() {
			return fmt.Sprintf("%+v", a)
		}
		return ""
	})
}

// End connects, says a line unless that is "", and reads to the end.
func (p *Pod) End(network, address, line string, flags ...string) answer.Talk {
	p.t.Helper()
	args := append(append([]string{"end", "-network", network}, flags...), address)
	if line != "" {
		args = append(args, line)
	}
	var a answer.Talk
	p.ask(&a, args...)
	return a
}

// Get asks for a URL; the answer is that of the test application.
func (p *Pod) Get(network, url string, flags ...string) (a answer.HTTP, err error) {
	p.t.Helper()
	out, err := p.Run(append(append([]string{"get", "-network", network}, flags...), url)...)
	if err == nil {
		err = json.Unmarshal([]byte(out), &a)
	}
	return a, err
}

// Heard is what came to the server in this pod by its raw protocols.
func (p *Pod) Heard() []answer.Heard {
	p.t.Helper()
	var all []answer.Heard
	p.ask(&all, "heard")
	return all
}

// HeardLine is the connection that began with this line, nil if there was none.
func (p *Pod) HeardLine(line string) *answer.Heard {
	p.t.Helper()
	for _, h := range p.Heard() {
		if strings.TrimSpace(h.Line) == line {
			return &h
		}
	}
	return nil
}

// ask runs the test application in the pod and reads its answer.
func (p *Pod) ask(into any, args ...string) {
	p.t.Helper()
	out, err := p.Run(args...)
	if err == nil {
		err = json.Unmarshal([]byte(out), into)
	}
	if err != nil {
		p.t.Fatalf("%s: %q: %v", p, args, err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Load makes what a file of ordinary Kubernetes YAML describes: a Node is made, a Pod is started on its spec.nodeName
// and its containers' commands are run in it, a Service gets addresses; everything else is written as it stands.
// Run is called before each container's command starts, when it is not nil, and may change it.
func (m *Mesh) Load(text string, run func(*exec.Cmd)) error {
	docs := documents(text)
	for _, kind := range []string{"Node", "", "Pod"} { // nodes first, pods last: their namespaces are known then
		for _, doc := range docs {
			var head metav1.TypeMeta
			if err := yaml.Unmarshal(doc, &head); err != nil {
				return fmt.Errorf("load: %w\n%s", err, doc)
			}
			if head.Kind != kind && !(kind == "" && head.Kind != "Node" && head.Kind != "Pod") {
				continue
			}
			if err := m.load(head.Kind, doc, run); err != nil {
				return fmt.Errorf("load %s: %w", head.Kind, err)
			}
		}
	}
	return nil
}

func (m *Mesh) load(kind string, doc []byte, run func(*exec.Cmd)) error {
	switch kind {
	case "Node":
		var o corev1.Node
		if err := yaml.Unmarshal(doc, &o); err != nil {
			return err
		}
		m.Node(o.Name)
	case "Service":
		var o corev1.Service
		if err := yaml.Unmarshal(doc, &o); err != nil {
			return err
		}
		m.loadService(&o)
	case "Pod":
		var o corev1.Pod
		if err := yaml.Unmarshal(doc, &o); err != nil {
			return err
		}
		return m.loadPod(&o, run)
	default:
		m.Apply(string(doc))
	}
	return nil
}

// loadService keeps what the object says, addresses apart.
func (m *Mesh) loadService(o *corev1.Service) {
	m.Service(o.Name, namespaceOf(o), o.Spec.Selector, func(made *corev1.Service) {
		made.Labels, made.Annotations = o.Labels, o.Annotations
		made.Spec.Ports = o.Spec.Ports
		if o.Spec.ClusterIP == corev1.ClusterIPNone {
			Headless()(made)
		}
	})
}

func (m *Mesh) loadPod(o *corev1.Pod, run func(*exec.Cmd)) error {
	if o.Spec.NodeName == "" {
		return fmt.Errorf("%s/%s has no spec.nodeName", o.Namespace, o.Name)
	}
	p := m.Node(o.Spec.NodeName).Pod(o.Name, Object(func(made *corev1.Pod) {
		made.Namespace, made.Labels, made.Annotations = namespaceOf(o), o.Labels, o.Annotations
		if o.Spec.ServiceAccountName != "" {
			made.Spec.ServiceAccountName = o.Spec.ServiceAccountName
		}
		if len(o.Spec.Containers) > 0 {
			made.Spec.Containers = o.Spec.Containers
		}
	}))
	for _, c := range o.Spec.Containers {
		if len(c.Command) == 0 {
			continue
		}
		if err := p.runContainer(c, run); err != nil {
			return fmt.Errorf("container %s of pod %s: %w", c.Name, p, err)
		}
	}
	return nil
}

func namespaceOf(o metav1.Object) string {
	if o.GetNamespace() == "" {
		return "default"
	}
	return o.GetNamespace()
}

// runContainer starts a container's command; its output goes to a log of its own. It ends with the pod.
func (p *Pod) runContainer(c corev1.Container, run func(*exec.Cmd)) error {
	cmd := exec.Command(c.Command[0], append(c.Command[1:], c.Args...)...)
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "HOSTNAME=" + p.Name}
	for _, e := range c.Env {
		cmd.Env = append(cmd.Env, e.Name+"="+e.Value)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if run != nil {
		run(cmd)
	}
	log, err := os.OpenFile(p.Node.mesh.logPath("pod-"+p.Namespace+"-"+p.Name+"-"+c.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	dir, err := p.container(c.Name)
	if err != nil {
		return err
	}
	if err := (place{net: p.PID(), mnt: p.PID(), cgroup: dir}).start(cmd); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

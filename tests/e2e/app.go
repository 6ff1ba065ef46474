// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Ports of DefaultServe.
const (
	EchoPort  = 7000
	FirstPort = 2525
	SinkPort  = 7001
	HTTPPort  = 8080
	GRPCPort  = 9090
	TLSPort   = 8443
)

// DefaultServe is what an App serves that says nothing about it; see testapp/doc.go for the protocols.
var DefaultServe = []string{"echo=:7000", "first=:2525", "sink=:7001", "reset=:7002", "half=:7003", "http=:8080", "grpc=:9090", "tls=:8443"}

// deployWithin is how long pods may take until they run, are ready and captured; of many each a little more.
const (
	deployWithin = 90 * time.Second
	deployEach   = 2 * time.Second
)

// App is a Deployment of the test application, with a ServiceAccount of its own.
type App struct {
	Name     string
	Account  string            // ServiceAccount; default Name
	Node     string            // which node; default: the scheduler's choice
	Replicas int               // default 1; negative: none yet
	Serve    []string          // default DefaultServe
	Args     []string          // of the container, instead of serving
	Labels   map[string]string // of the pods, beside app: Name
	Enrol    string            // the pods' own annotation warren.dev/mesh: "", "enabled" or "disabled"
	Host     bool              // hostNetwork
	NoProbe  bool              // without the readiness probe by HTTP on HTTPPort that servers of it have
	Change   func(*corev1.PodTemplateSpec)
	Uncaught bool // don't wait until the pods are captured
}

func (a App) serves() []string {
	switch {
	case a.Args != nil:
		return nil
	case a.Serve != nil:
		return a.Serve
	}
	return DefaultServe
}

// template is the pods'.
func (a App) template(image string) corev1.PodTemplateSpec {
	grace := int64(1)
	c := corev1.Container{Name: "app", Image: image, ImagePullPolicy: corev1.PullNever, Args: a.Args}
	if serve := a.serves(); serve != nil {
		c.Args = append([]string{"serve"}, serve...)
		if !a.NoProbe && slices.Contains(serve, fmt.Sprintf("http=:%d", HTTPPort)) {
			c.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
				HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(HTTPPort)}}}
		}
	}
	p := corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		ServiceAccountName: a.account(), TerminationGracePeriodSeconds: &grace, HostNetwork: a.Host, Containers: []corev1.Container{c},
	}}
	if a.Node != "" {
		p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: a.Node}
	}
	p.Labels = map[string]string{"app": a.Name}
	for k, v := range a.Labels {
		p.Labels[k] = v
	}
	if a.Enrol != "" {
		p.Annotations = map[string]string{enrolment: a.Enrol}
	}
	if a.Change != nil {
		a.Change(&p)
	}
	return p
}

func (a App) account() string {
	if a.Account != "" {
		return a.Account
	}
	return a.Name
}

func (a App) replicas() int32 {
	if a.Replicas == 0 {
		return 1
	}
	return int32(max(a.Replicas, 0))
}

// Template is the pod template of an app, for controllers other than Deployments. Its ServiceAccount is made, too.
func (n *Namespace) Template(a App) corev1.PodTemplateSpec {
	n.t.Helper()
	if err := n.makeAccount(n.t.Context(), a); err != nil {
		n.t.Fatal(err)
	}
	return a.template(n.mesh.App)
}

// Deploy makes Deployments and returns their pods, in the order of the apps, as soon as all are ready and, where they are
// to be, captured.
func (n *Namespace) Deploy(apps ...App) []*Pod {
	n.t.Helper()
	n.Create(apps...)
	out := make([][]*Pod, len(apps))
	errs := make([]error, len(apps))
	var wg sync.WaitGroup
	for i, a := range apps {
		wg.Go(func() { out[i], errs[i] = n.wait(a) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			n.t.Fatal(err)
		}
	}
	return slices.Concat(out...)
}

// Create makes Deployments and waits for nothing.
func (n *Namespace) Create(apps ...App) {
	n.t.Helper()
	ctx := n.t.Context()
	for _, a := range apps {
		if err := n.makeAccount(ctx, a); err != nil {
			n.t.Fatal(err)
		}
		replicas := a.replicas()
		d := &appsv1.Deployment{ObjectMeta: n.object(a.Name, a.Name, nil, nil), Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": a.Name}}, Template: a.template(n.mesh.App)}}
		if _, err := n.mesh.Client().AppsV1().Deployments(n.Name).Create(ctx, d, metav1.CreateOptions{}); err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n *Namespace) makeAccount(ctx context.Context, a App) error {
	accounts := n.mesh.Client().CoreV1().ServiceAccounts(n.Name)
	if _, err := accounts.Get(ctx, a.account(), metav1.GetOptions{}); err == nil {
		return nil
	}
	_, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: n.object(a.account(), a.Name, nil, nil)}, metav1.CreateOptions{})
	return err
}

// Wait waits for an app's pods as Deploy does.
func (n *Namespace) Wait(a App) []*Pod {
	n.t.Helper()
	pods, err := n.wait(a)
	if err != nil {
		n.t.Fatal(err)
	}
	return pods
}

func (n *Namespace) wait(a App) ([]*Pod, error) {
	captured := ""
	if (n.enrolled && a.Enrol != "disabled" || a.Enrol == "enabled") && !a.Host && !a.Uncaught {
		captured = "true"
	}
	ctx, cancel := context.WithTimeout(n.t.Context(), deployWithin+time.Duration(a.replicas())*deployEach)
	defer cancel()
	found, err := n.mesh.watchPods(ctx, n.Name, "app="+a.Name, func(all []corev1.Pod) string {
		live := slices.DeleteFunc(slices.Clone(all), func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
		if len(live) != int(a.replicas()) {
			return fmt.Sprintf("%d pods, want %d", len(live), a.replicas())
		}
		for _, p := range live {
			if missing := unready(p, captured); missing != "" {
				return p.Name + ": " + missing
			}
		}
		return ""
	})
	if err != nil {
		return nil, fmt.Errorf("deploy %s/%s: %w", n.Name, a.Name, err)
	}
	var pods []*Pod
	for _, p := range found {
		if p.DeletionTimestamp == nil {
			pods = append(pods, n.pod(p))
		}
	}
	slices.SortFunc(pods, func(a, b *Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods, nil
}

// unready says why a pod is not yet as it should be: ready, and with this word about capture unless that is "".
func unready(p corev1.Pod, captured string) string {
	if got := p.Annotations[capturedAnnotation]; captured != "" && got != captured {
		return fmt.Sprintf("%s is %q, want %q", capturedAnnotation, got, captured)
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return ""
		}
	}
	why := string(p.Status.Phase)
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil {
			why += ", " + w.Reason + " " + w.Message
		}
	}
	return "not ready: " + why
}

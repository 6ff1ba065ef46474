// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/warren-mesh/warren/tests/e2e/testapp/answer"
)

// servicesPage explains every difference that TestServices lets pass.
const servicesPage = "../../docs/services.md"

// Ports of the nodes, and the address that stands for a load balancer's.
const (
	hostNetworkPort = 17000
	hostPort        = 17001
	balancerIP      = "192.0.2.77"
)

// outcomes of a row that are no pods.
const (
	refused  = "refused"  // an answer at once that there is nobody: refused, or reset
	silence  = "timeout"  // no answer
	nameless = "nameless" // the name has no address of the family
	oneOf    = "one of "  // the same pod each time
)

// shapes are servers of every kind behind Services of every shape, and two clients on the first node.
type shapes struct {
	*Mesh
	ns          *Namespace
	outside, in *Pod              // the clients: neither is of another namespace, so names mean the same to both
	apps        map[string]string // by what a server calls itself
	nodes       []netip.Addr      // by number: of the first family, then of the second
	services    map[string]*corev1.Service
	web2        *Pod
}

// shape is a row: whom a client talks to, and who answers. Without captured that holds for both clients; with it, docs
// has to say why the captured client gets something else.
type shape struct {
	name     string
	to       string // HOST:PORT; $1, $2: the nodes' addresses, $me: the client's app, $name: a nodePort
	networks string // default "tcp4 tcp6"
	bare     string // outcome: the apps that answer, sorted
	captured string // outcome, if it is another
	docs     string // what the page says about it
}

// keepsSource is why a captured client does not reach a captured pod by some addresses of nodes.
const keepsSource = "the client's own address arrives"

var serviceShapes = []shape{
	{name: "ClusterIP, targetPort differs", to: "web:80", bare: "web1 web2"},
	{name: "ClusterIP, targetPort named, another in each pod", to: "named:80", bare: "web1 web2"},
	{name: "ClusterIP, second port", to: "named:81", bare: "web1"},
	{name: "sessionAffinity: ClientIP", to: "sticky:80", bare: oneOf + "web1 web2"},
	{name: "internalTrafficPolicy: Local", to: "local:80", bare: "web1"},
	{name: "internalTrafficPolicy: Local without an endpoint on the node", to: "local-far:80", bare: silence, captured: refused,
		docs: "no endpoint on the client's node"},
	{name: "selectorless, to a pod's address", to: "by-hand:80", bare: "web2"},
	{name: "selectorless, to an address outside of the mesh", to: "abroad:80", bare: "host"},
	{name: "headless", to: "web-bare:7000", bare: oneOf + "web1 web2"}, // the resolver sorts
	{name: "name of a StatefulSet's pod", to: "set-0.set:7000", bare: "set"},
	{name: "StatefulSet's headless Service", to: "set:7000", bare: "set"},
	{name: "NodePort, the client's node", to: "$1:$nodeport", bare: "web1 web2"},
	{name: "NodePort, another node", to: "$2:$nodeport", bare: "web1 web2"},
	{name: "NodePort, externalTrafficPolicy: Local, a node with an endpoint", to: "$2:$external", bare: "web2", captured: refused, docs: keepsSource},
	{name: "NodePort by ClusterIP, externalTrafficPolicy: Local", to: "external:80", bare: "web2"},
	{name: "NodePort, externalTrafficPolicy: Local, the client's node without an endpoint", to: "$1:$external", bare: "web2",
		captured: refused, docs: keepsSource},
	{name: "LoadBalancer by its address", to: balancerIP + ":80", networks: "tcp4", bare: "web1 web2"},
	{name: "LoadBalancer by ClusterIP", to: "balanced:80", bare: "web1 web2"},
	{name: "hostPort", to: fmt.Sprint("$2:", hostPort), bare: "web2", captured: refused, docs: keepsSource},
	{name: "hostNetwork pod as endpoint", to: "host:80", bare: "host"},
	{name: "hostNetwork pod at its node's address", to: fmt.Sprint("$2:", hostNetworkPort), bare: "host"},
	{name: "not ready", to: "unready:80", bare: refused},
	{name: "not ready, publishNotReadyAddresses", to: "published:80", bare: "unready"},
	{name: "not ready, publishNotReadyAddresses, headless", to: "published-bare:7000", bare: "unready"},
	{name: "terminating, others ready", to: "both:80", bare: "web1"},
	{name: "terminating, none ready", to: "leaving:80", bare: "leaving"},
	{name: "ExternalName", to: "alias:80", bare: "web1 web2"},
	{name: "ipFamilyPolicy: SingleStack, IPv4", to: "only4:80", networks: "tcp4 tcp", bare: "web1 web2"},
	{name: "ipFamilyPolicy: SingleStack, IPv4, asked for IPv6", to: "only4:80", networks: "tcp6", bare: nameless},
	{name: "ipFamilyPolicy: SingleStack, IPv6", to: "only6:80", networks: "tcp6 tcp", bare: "web1 web2"},
	{name: "ipFamilyPolicy: SingleStack, IPv6, asked for IPv4", to: "only6:80", networks: "tcp4", bare: nameless},
	{name: "ipFamilyPolicy: PreferDualStack", to: "prefer:80", bare: "web1 web2"},
	{name: "a Service of oneself", to: "$me:80", bare: "$me"},
	{name: "no endpoints", to: "empty:80", bare: refused},
	{name: "a port the Service does not have", to: "web:8888", bare: refused},
	{name: "a port nobody listens on", to: "closed:80", bare: refused},
}

// TestServices: a captured client reaches what an unmeshed one reaches, through a Service of every shape, or the
// documentation says why not.
func TestServices(t *testing.T) {
	s := newShapes(t, Shared(t))
	page, err := os.ReadFile(servicesPage)
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Join(strings.Fields(string(page)), " ")
	for _, row := range serviceShapes {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if (row.captured == "") != (row.docs == "") || !strings.Contains(said, row.docs) {
				t.Errorf("%s does not say %q", servicesPage, row.docs)
			}
			s.run(t, row)
		})
	}
}

// run has both clients ask, in every family, and compares.
func (s *shapes) run(t *testing.T, row shape) {
	networks := strings.Fields(row.networks)
	if len(networks) == 0 {
		networks = []string{"tcp4", "tcp6"}
	}
	for _, network := range networks {
		for _, client := range []*Pod{s.outside, s.in} {
			want := row.bare
			if client == s.in && row.captured != "" {
				want = row.captured
			}
			want = strings.ReplaceAll(want, "$me", client.App)
			address := s.address(row.to, network, client)
			if got, last := s.outcome(client.In(t), network, address, want); got != want {
				t.Errorf("%s, %s to %s: %s, want %s; last: %+v", client.App, network, address, got, want, last)
			}
		}
	}
}

// address fills in what a row leaves open.
func (s *shapes) address(to, network string, client *Pod) string {
	host, port, _ := strings.Cut(to, ":")
	if name, ok := strings.CutPrefix(port, "$"); ok {
		port = fmt.Sprint(s.services[name].Spec.Ports[0].NodePort)
	}
	second := 0
	if network == "tcp6" {
		second = 2
	}
	switch host {
	case "$1":
		host = s.nodes[second].String()
	case "$2":
		host = s.nodes[second+1].String()
	case "$me":
		host = client.App
	}
	return net.JoinHostPort(host, port)
}

// outcome asks until everybody who is to answer has, and at least four times; for one and the same, twelve times.
func (s *shapes) outcome(client *Pod, network, address, want string) (string, answer.Talk) {
	const most = 60
	least, fixed := 4, strings.HasPrefix(want, oneOf)
	if fixed {
		least = 12
	}
	within := "10s" // a server's node waits for 5 s until it is sure whose plaintext it refuses
	switch want {
	case silence:
		least, within = 1, "2s"
	case refused:
		least = 1
	}
	seen := map[string]bool{}
	var a answer.Talk
	all := func() string {
		var names []string
		for name := range seen {
			names = append(names, name)
		}
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	for i := range most {
		a = client.Talk(network, address, "shape", "-timeout", within)
		seen[s.who(a)] = true
		if i+1 >= least && (fixed || all() == want || len(seen) > len(strings.Fields(want))) {
			break
		}
	}
	got := all()
	if fixed && len(seen) == 1 && slices.Contains(strings.Fields(want), got) {
		return want, a
	}
	return got, a
}

// who is one conversation's outcome.
func (s *shapes) who(a answer.Talk) string {
	switch {
	case a.OK():
		return s.apps[a.Pod]
	case a.IsReset():
		return refused
	case a.End == answer.Unreachable && strings.Contains(a.Error, "lookup"):
		return nameless
	}
	return a.End
}

func newShapes(t *testing.T, m *Mesh) *shapes {
	t.Helper()
	nodes := m.Nodes()
	s := &shapes{Mesh: m, ns: m.Namespace(t, "shapes", Enrolled()), apps: map[string]string{nodes[1]: "host"}, services: map[string]*corev1.Service{}}
	s.addresses(t)
	s.ns.Apply(statefulSetService)
	s.createSet(t)
	leaving := App{Name: "leaving", Node: nodes[1], Serve: []string{"-drain", "5m", "echo=:7000"}, Labels: map[string]string{"both": "yes"}, Change: func(p *corev1.PodTemplateSpec) {
		grace := int64(300)
		p.Spec.TerminationGracePeriodSeconds = &grace
	}}
	s.ns.Create(App{Name: "unready", Node: nodes[1], Serve: []string{"echo=:7000"}, Change: neverReady})
	pods := s.ns.Deploy(leaving,
		App{Name: "outside", Node: nodes[0], Enrol: "disabled"},
		App{Name: "in", Node: nodes[0]},
		App{Name: "web1", Node: nodes[0], Labels: map[string]string{"set": "web", "both": "yes"}, Change: ports(map[string]int32{"main": EchoPort, "second": EchoPort})},
		App{Name: "web2", Node: nodes[1], Labels: map[string]string{"set": "web"}, Serve: []string{"echo=:7000", "echo=:7077", "http=:8080"}, Change: hostPorted},
		App{Name: "host", Node: nodes[1], Host: true, Serve: []string{fmt.Sprint("echo=:", hostNetworkPort)}})
	s.outside, s.in, s.web2 = pods[1], pods[2], pods[4]
	s.createServices(t)
	for _, p := range append(pods, s.waitSet(), s.waitUnready(t)) {
		if p.App != "host" {
			s.apps[p.Name] = p.App
		}
	}
	s.leave(t, pods[0])
	return s
}

// addresses are the nodes'.
func (s *shapes) addresses(t *testing.T) {
	t.Helper()
	s.nodes = make([]netip.Addr, 4)
	for i, name := range s.Nodes()[:2] {
		o, err := s.Client().CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range o.Status.Addresses {
			if a, err := netip.ParseAddr(x.Address); err == nil && a.Is4() {
				s.nodes[i] = a
			} else if err == nil {
				s.nodes[i+2] = a
			}
		}
	}
}

// ports names ports of the container.
func ports(named map[string]int32) func(*corev1.PodTemplateSpec) {
	return func(p *corev1.PodTemplateSpec) {
		for name, port := range named {
			p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, corev1.ContainerPort{Name: name, ContainerPort: port})
		}
	}
}

func hostPorted(p *corev1.PodTemplateSpec) {
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "main", ContainerPort: 7077}, {Name: "host", ContainerPort: EchoPort, HostPort: hostPort}}
}

func neverReady(p *corev1.PodTemplateSpec) {
	p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 600, ProbeHandler: corev1.ProbeHandler{
		Exec: &corev1.ExecAction{Command: []string{binary, "exit", "1"}}}}
}

const statefulSetService = `{apiVersion: v1, kind: Service, metadata: {name: set}, spec: {clusterIP: None, selector: {app: set},
  ipFamilyPolicy: RequireDualStack, ports: [{name: p, port: 7000}]}}`

func (s *shapes) createSet(t *testing.T) {
	t.Helper()
	set := &appsv1.StatefulSet{ObjectMeta: s.ns.object("set", "set", nil, nil), Spec: appsv1.StatefulSetSpec{ServiceName: "set",
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "set"}}, Template: s.ns.Template(App{Name: "set", Node: s.Nodes()[1]})}}
	if _, err := s.Client().AppsV1().StatefulSets(s.ns.Name).Create(t.Context(), set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (s *shapes) waitSet() *Pod { return s.ns.Wait(App{Name: "set"})[0] }

// waitUnready waits for the pod that runs and is never ready.
func (s *shapes) waitUnready(t *testing.T) *Pod {
	t.Helper()
	Eventually(t, deployWithin, "the pod that is never ready runs", func() string {
		list, err := s.Client().CoreV1().Pods(s.ns.Name).List(t.Context(), metav1.ListOptions{LabelSelector: "app=unready"})
		if err != nil {
			return err.Error()
		}
		for _, p := range list.Items {
			if len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Running != nil {
				return ""
			}
		}
		return "no container of it"
	})
	p := s.ns.Pods("app=unready")[0]
	p.WaitCaptured("true")
	return p
}

// createServices makes one Service per shape.
func (s *shapes) createServices(t *testing.T) {
	t.Helper()
	families := func(policy corev1.IPFamilyPolicy, families ...corev1.IPFamily) func(*corev1.Service) {
		return func(o *corev1.Service) { o.Spec.IPFamilyPolicy, o.Spec.IPFamilies = &policy, families }
	}
	local := corev1.ServiceInternalTrafficPolicyLocal
	internal := func(o *corev1.Service) { o.Spec.InternalTrafficPolicy = &local }
	bare := []Port{{EchoPort, EchoPort}}
	for _, x := range []struct {
		name, key, value string // of the selector
		ports            []Port
		headless         bool
		change           func(*corev1.Service)
	}{
		{"web", "set", "web", nil, false, nil},
		{"web-bare", "set", "web", bare, true, nil},
		{"named", "set", "web", nil, false, func(o *corev1.Service) {
			o.Spec.Ports = []corev1.ServicePort{{Name: "one", Port: 80, TargetPort: intstr.FromString("main")}, {Name: "two", Port: 81, TargetPort: intstr.FromString("second")}}
		}},
		{"sticky", "set", "web", nil, false, func(o *corev1.Service) { o.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }},
		{"local", "set", "web", nil, false, internal},
		{"local-far", "app", "web2", nil, false, internal},
		{"by-hand", "", "", nil, false, nil},
		{"abroad", "", "", nil, false, nil},
		{"nodeport", "set", "web", nil, false, func(o *corev1.Service) { o.Spec.Type = corev1.ServiceTypeNodePort }},
		{"external", "app", "web2", nil, false, func(o *corev1.Service) {
			o.Spec.Type, o.Spec.ExternalTrafficPolicy = corev1.ServiceTypeNodePort, corev1.ServiceExternalTrafficPolicyLocal
		}},
		{"balanced", "set", "web", nil, false, func(o *corev1.Service) { o.Spec.Type = corev1.ServiceTypeLoadBalancer }},
		{"host", "app", "host", []Port{{80, hostNetworkPort}}, false, nil},
		{"unready", "app", "unready", nil, false, nil},
		{"published", "app", "unready", nil, false, func(o *corev1.Service) { o.Spec.PublishNotReadyAddresses = true }},
		{"published-bare", "app", "unready", bare, true, func(o *corev1.Service) { o.Spec.PublishNotReadyAddresses = true }},
		{"both", "both", "yes", nil, false, nil},
		{"leaving", "app", "leaving", nil, false, nil},
		{"alias", "", "", nil, false, func(o *corev1.Service) {
			o.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "web." + s.ns.Name + ".svc.cluster.local"}
		}},
		{"only4", "set", "web", nil, false, families(corev1.IPFamilyPolicySingleStack, corev1.IPv4Protocol)},
		{"only6", "set", "web", nil, false, families(corev1.IPFamilyPolicySingleStack, corev1.IPv6Protocol)},
		{"prefer", "set", "web", nil, false, families(corev1.IPFamilyPolicyPreferDualStack)},
		{"outside", "app", "outside", nil, false, nil},
		{"in", "app", "in", nil, false, nil},
		{"empty", "app", "nobody", nil, false, nil},
		{"closed", "set", "web", []Port{{80, 9}}, false, nil},
	} {
		s.services[x.name] = s.ns.Service(Service{Name: x.name, Ports: x.ports, Headless: x.headless, Change: func(o *corev1.Service) {
			o.Spec.Selector = nil
			if x.key != "" {
				o.Spec.Selector = map[string]string{x.key: x.value}
			}
			if x.change != nil {
				x.change(o)
			}
		}})
	}
	s.createSlices(t)
	o := s.services["balanced"].DeepCopy()
	o.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: balancerIP}}
	if _, err := s.Client().CoreV1().Services(s.ns.Name).UpdateStatus(t.Context(), o, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// createSlices makes the endpoints of the Services without a selector.
func (s *shapes) createSlices(t *testing.T) {
	t.Helper()
	yes, name, tcp := true, "p80", corev1.ProtocolTCP
	for service, to := range map[string][]netip.AddrPort{
		"by-hand": {s.web2.Addr("tcp4", EchoPort), s.web2.Addr("tcp6", EchoPort)},
		"abroad":  {netip.AddrPortFrom(s.nodes[1], hostNetworkPort), netip.AddrPortFrom(s.nodes[3], hostNetworkPort)},
	} {
		for i, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
			port := int32(to[i].Port())
			o := &discoveryv1.EndpointSlice{AddressType: family,
				ObjectMeta: s.ns.object(service+"-"+strings.ToLower(string(family)), service, map[string]string{discoveryv1.LabelServiceName: service}, nil),
				Ports:      []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &tcp}},
				Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{to[i].Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}}}}
			if _, err := s.Client().DiscoveryV1().EndpointSlices(s.ns.Name).Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// leave has a pod terminate, which takes longer than the test, and waits until no kube-proxy takes it for ready.
func (s *shapes) leave(t *testing.T, p *Pod) {
	t.Helper()
	none := int32(0)
	d, err := s.Client().AppsV1().Deployments(s.ns.Name).Get(t.Context(), p.App, metav1.GetOptions{})
	if err == nil {
		d.Spec.Replicas = &none
		_, err = s.Client().AppsV1().Deployments(s.ns.Name).Update(t.Context(), d, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // else the namespace stays for as long as the pod drains
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		now := int64(0)
		_ = s.Client().CoreV1().Pods(s.ns.Name).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
	})
	for _, service := range []string{"both", "leaving"} {
		Eventually(t, 20*time.Second, "the endpoint of "+service+" terminates", func() string {
			list, err := s.Client().DiscoveryV1().EndpointSlices(s.ns.Name).List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
			if err != nil {
				return err.Error()
			}
			n := 0
			for _, slice := range list.Items {
				for _, e := range slice.Endpoints {
					if e.TargetRef != nil && e.TargetRef.Name == p.Name && e.Conditions.Terminating != nil && *e.Conditions.Terminating {
						n++
					}
				}
			}
			if n != 2 {
				return fmt.Sprintf("in %d of 2 slices", n)
			}
			return ""
		})
	}
	// What the API server says, kube-proxy and agents follow within moments.
	var wg sync.WaitGroup
	for _, client := range []*Pod{s.outside, s.in} {
		wg.Go(func() {
			Eventually(t, 20*time.Second, "nothing goes to what terminates", func() string {
				for range 6 {
					if a := client.Talk("tcp", "both:80", "x", "-timeout", "5s"); s.apps[a.Pod] != "web1" {
						return fmt.Sprintf("%+v", a)
					}
				}
				return ""
			})
		})
	}
	wg.Wait()
}

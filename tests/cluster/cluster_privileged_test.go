// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"

	"github.com/warren-mesh/warren/tests/cluster/machine"
)

const echoManifest = `
apiVersion: v1
kind: Namespace
metadata: {name: smoke}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, namespace: smoke}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {labelSelector: {matchLabels: {app: echo}}, topologyKey: kubernetes.io/hostname}
      containers:
      - name: echo
        image: example.com/echo:test
        args: [serve, ":8080"]
        ports: [{containerPort: 8080, hostPort: 8088}]
        readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: smoke}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: echo}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: smoke}
spec: {mtls: {mode: STRICT}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: echo, namespace: smoke}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}]
  rules: [{backendRefs: [{name: echo, port: 80}]}]
`

// TestCluster takes one cluster through its life.
func TestCluster(t *testing.T) {
	Privileged(t)
	before := observe(t)
	o := Options{Name: "smoke", Output: os.Stderr}
	crashed := crash(t, o)
	c, err := Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(crashed, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("pid 1 of the run that crashed is left: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.dump(context.Background(), t)
		}
		if err := c.Down(); err != nil {
			t.Error(err)
		}
		leavesNothing(t, c, before)
	})
	for _, step := range []struct {
		name string
		test func(*testing.T, *Cluster)
	}{
		{"two pods on two nodes", deployEcho},
		{"services, DNS, node ports and host ports in both families", reachEcho},
		{"exec, logs and processes", useEcho},
		{"leaf cgroups and file systems of its own", isolates},
		{"a privileged pod sees its node", agentSees},
		{"the API server asks a webhook", asksWebhook},
		{"the API server writes down what pods ask", auditsPods},
		{"another process finds the cluster", reopens},
		{"components are killed, stopped and started", restartsComponents},
		{"a node restarts", restartsNode},
		{"the control plane restarts", restartsControl},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.test(t, c) }) {
			return
		}
	}
}

// crash leaves what a run leaves that dies while it starts a cluster: one machine on, with a service, the others not yet.
func crash(t *testing.T, o Options) (pid int) {
	t.Helper()
	tools, err := build(t.Context(), newReport(o.Output))
	if err != nil {
		t.Fatal(err)
	}
	if err := sweep(o.Name); err != nil {
		t.Fatal(err)
	}
	c, err := create(o.withDefaults(), tools, newReport(o.Output))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.MkdirAll(c.pki(""), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 30*time.Second)
	if err := c.control.Boot(ctx, l); err != nil {
		t.Fatal(err)
	}
	if err := c.control.Start(ctx, c.etcd()); err != nil {
		t.Fatal(err)
	}
	return c.control.PID
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func deployEcho(t *testing.T, c *Cluster) {
	binary := filepath.Join(t.TempDir(), "echo")
	build := exec.Command("nice", "go", "build", "-o", binary, "./echo")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build echo: %v: %s", err, out)
	}
	ctx := within(t, time.Minute)
	if err := c.LoadImage(ctx, Binary("example.com/echo:test", binary)); err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(ctx, echoManifest); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := c.Wait(ctx, "smoke", "deployments/echo", RolledOut()); err != nil {
		t.Fatal(err)
	}
	t.Logf("two pods were ready after %v", time.Since(begin))
	nodes := map[string]bool{}
	for _, p := range echoPods(t, c) {
		nodes[p.Spec.NodeName] = true
		if len(p.Status.PodIPs) != 2 {
			t.Errorf("pod %s has addresses %v, want two", p.Name, p.Status.PodIPs)
		}
		n, err := c.client.CoreV1().Nodes().Get(ctx, p.Spec.NodeName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i, ip := range p.Status.PodIPs {
			if cidr := netip.MustParsePrefix(n.Spec.PodCIDRs[i]); !cidr.Contains(netip.MustParseAddr(ip.IP)) {
				t.Errorf("pod %s has address %s, its node hands out %s", p.Name, ip.IP, cidr)
			}
		}
	}
	if len(nodes) != 2 {
		t.Errorf("the pods are on %v, want two nodes", slices.Collect(maps.Keys(nodes)))
	}
}

func echoPods(t *testing.T, c *Cluster) []corev1.Pod {
	t.Helper()
	return podsOf(t, c, "echo")
}

func podsOf(t *testing.T, c *Cluster, app string) []corev1.Pod {
	t.Helper()
	list, err := c.client.CoreV1().Pods("smoke").List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// reachEcho asks by every way there is, until both pods have answered where both may.
func reachEcho(t *testing.T, c *Cluster) {
	pods := echoPods(t, c)
	svc, err := c.client.CoreV1().Services("smoke").Get(t.Context(), "echo", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const name = "echo.smoke.svc.cluster.local"
	for i, network := range []string{"tcp4", "tcp6"} {
		at := func(host string, port int) string {
			addr := netip.MustParseAddr(host)
			return "http://" + netip.AddrPortFrom(addr, uint16(port)).String()
		}
		v4, v6 := nodeAddresses(2)
		node := []netip.Addr{v4, v6}[i].String()
		for _, way := range []struct {
			url  string
			both bool
		}{
			{at(pods[0].Status.PodIPs[i].IP, 8080), false}, {at(pods[1].Status.PodIPs[i].IP, 8080), false},
			{at(svc.Spec.ClusterIPs[i], 80), true}, {"http://" + name, true}, {"http://echo", true},
			{at(node, 30080), true}, {at(node, 8088), false},
		} {
			for _, p := range pods {
				want := 1
				if way.both {
					want = 2
				}
				answered := map[string]bool{}
				eventually(t, 20*time.Second, fmt.Sprintf("%s from %s over %s", way.url, p.Spec.NodeName, network), func() error {
					out, stderr, err := c.Exec(t.Context(), "smoke", p.Name, "", "/echo", "get", network, way.url)
					if err != nil {
						return fmt.Errorf("%w: %s", err, stderr)
					}
					answered[strings.Fields(out)[0]] = true
					if len(answered) < want {
						return fmt.Errorf("answered by %v only", slices.Collect(maps.Keys(answered)))
					}
					return nil
				})
			}
		}
	}
}

func eventually(t *testing.T, limit time.Duration, what string, try func() error) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: after %v: %v", what, limit, err)
		}
	}
}

func useEcho(t *testing.T, c *Cluster) {
	ctx := within(t, 30*time.Second)
	for _, p := range echoPods(t, c) {
		err := c.ExecStream(ctx, "smoke", p.Name, "echo", remotecommand.StreamOptions{Stdout: os.Stderr}, "/echo", "exit", "7")
		if status := (utilexec.ExitError)(nil); !errors.As(err, &status) || status.ExitStatus() != 7 {
			t.Errorf("exec of what ends with 7: %v", err)
		}
		logs, err := c.Logs(ctx, "smoke", p.Name, "")
		if err != nil || !strings.Contains(logs, "serving as "+p.Name) {
			t.Errorf("logs are %q, %v", logs, err)
		}
		processes, err := c.Processes(ctx, "smoke", p.Name)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(processes, func(p Process) bool { return p.Container == "echo" })
		if i < 0 || processes[i].Command != "/echo serve :8080" {
			t.Errorf("processes of %s: %+v", p.Name, processes)
		}
	}
}

// auditsPods asks with a pod's account for something it may and something it may not.
func auditsPods(t *testing.T, c *Cluster) {
	ctx := within(t, 30*time.Second)
	token, err := c.client.CoreV1().ServiceAccounts("smoke").CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(c.config)
	config.BearerToken, config.UserAgent = token.Status.Token, "smoke"
	pod, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pod.Discovery().ServerVersion(); err != nil {
		t.Error(err)
	}
	if _, err := pod.CoreV1().Secrets("smoke").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a pod lists Secrets: %v", err)
	}
	eventually(t, 5*time.Second, "both are in the audit log", func() error {
		all, err := c.Audit()
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(r Request) bool { return r.Namespace != "smoke" || r.Account != "default" || r.Agent != "smoke" })
		may := slices.ContainsFunc(all, func(r Request) bool { return r.URI == "/version" && r.Allowed && r.Status == 200 })
		mayNot := slices.ContainsFunc(all, func(r Request) bool {
			return r.Resource == "secrets" && r.Verb == "list" && r.ObjectSpace == "smoke" && !r.Allowed && r.Status == 403
		})
		if !may || !mayNot {
			return fmt.Errorf("it has %+v", all)
		}
		return nil
	})
}

func isolates(t *testing.T, c *Cluster) {
	ctx := within(t, 30*time.Second)
	for _, n := range c.nodes {
		unified := n.UnifiedCgroup()
		for _, leaf := range []string{"kubelet", "containerd", "kube-proxy", "host", "init"} {
			entries, err := os.ReadDir(filepath.Join(unified, leaf))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if e.IsDir() {
					t.Errorf("cgroup %s of %s has %s in it: it is no leaf", leaf, n.Name, e.Name())
				}
			}
		}
		if b, err := os.ReadFile(filepath.Join(unified, "cgroup.procs")); err != nil || len(b) != 0 {
			t.Errorf("processes in the root cgroup of %s: %q, %v", n.Name, b, err)
		}
		if _, err := os.Stat(filepath.Join(unified, "kubepods")); err != nil {
			t.Error(err)
		}
		own, err := c.NodeShell(ctx, n.Name, "cat", "/proc/self/cgroup")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(own) {
			if !strings.HasSuffix(strings.TrimSpace(line), ":/host") {
				t.Errorf("a host process of %s is in %s", n.Name, line)
			}
		}
		if out, err := c.NodeShell(ctx, n.Name, "sh", "-c", "echo 5 > /proc/sys/kernel/printk"); err == nil {
			t.Errorf("%s may write the machine's sysctls: %s", n.Name, out)
		}
	}
	if _, err := c.NodeShell(ctx, "n1", "sh", "-c", "mkdir /sys/fs/bpf/mine && touch /etc/mine /run/mine"); err != nil {
		t.Fatal(err)
	}
	for _, elsewhere := range []string{"n2", "control"} {
		for _, file := range []string{"/sys/fs/bpf/mine", "/etc/mine", "/run/mine"} {
			if _, err := c.NodeShell(ctx, elsewhere, "test", "-e", file); err == nil {
				t.Errorf("%s of n1 is seen on %s", file, elsewhere)
			}
		}
	}
	if _, err := os.Stat("/etc/mine"); err == nil {
		t.Error("/etc/mine of n1 is seen on this machine")
	}
}

func reopens(t *testing.T, c *Cluster) {
	again, err := Up(t.Context(), Options{Name: c.options.Name, Reuse: true})
	if err != nil {
		t.Fatal(err)
	}
	if again.nodes[0].PID != c.nodes[0].PID {
		t.Error("Up with Reuse started the cluster afresh")
	}
	var out strings.Builder
	if err := again.Status(t.Context(), &out); err != nil || strings.Count(out.String(), "running") != 10 {
		t.Errorf("status (%v):\n%s", err, &out)
	}
}

func restarts(t *testing.T, c *Cluster, m *machine.Machine, service string) (int, bool) {
	t.Helper()
	all, err := m.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Name == service {
			return s.Restarts, s.Running
		}
	}
	t.Fatalf("%s has no %s", m.Name, service)
	return 0, false
}

func restartsComponents(t *testing.T, c *Cluster) {
	ctx := within(t, time.Minute)
	if err := c.Kill(ctx, "n1/kubelet"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "kubelet is back", func() error {
		if n, running := restarts(t, c, c.nodes[0].Machine, "kubelet"); n != 1 || !running {
			return fmt.Errorf("%d restarts, running %v", n, running)
		}
		return nil
	})
	begin := time.Now()
	if err := c.Stop(ctx, "control/kube-apiserver"); err != nil {
		t.Fatal(err)
	}
	t.Logf("the API server took %v to stop", time.Since(begin))
	if _, err := c.client.Discovery().RESTClient().Get().AbsPath("/readyz").MaxRetries(0).DoRaw(ctx); err == nil {
		t.Error("the API server answers although it was stopped")
	}
	if err := c.Start(ctx, "control/kube-apiserver"); err != nil {
		t.Fatal(err)
	}
	if err := c.waitAPI(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("the API server was back %v after its end began", time.Since(begin))
}

func restartsNode(t *testing.T, c *Cluster) {
	ctx := within(t, 2*time.Minute)
	if _, err := c.NodeShell(ctx, "n2", "touch", "/var/lib/stays", "/run/goes"); err != nil {
		t.Fatal(err)
	}
	boot := func() string {
		id, err := c.NodeShell(ctx, "n2", "cat", "/proc/sys/kernel/random/boot_id")
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	first := boot()
	begin := time.Now()
	if err := c.Restart(ctx, "n2"); err != nil {
		t.Fatal(err)
	}
	if boot() == first {
		t.Error("the boot id is the same after a restart")
	}
	if _, err := c.NodeShell(ctx, "n2", "sh", "-c", "test -e /var/lib/stays && ! test -e /run/goes"); err != nil {
		t.Errorf("disk and memory after a restart: %v", err)
	}
	eventually(t, time.Minute, "the pod of n2 runs again", func() error {
		for _, p := range echoPods(t, c) {
			if p.Spec.NodeName == "n2" && p.Status.ContainerStatuses[0].RestartCount == 1 && p.Status.ContainerStatuses[0].Ready {
				return nil
			}
		}
		return errors.New("it does not")
	})
	t.Logf("the node and its pod were back after %v", time.Since(begin))
	reachEcho(t, c)
}

func restartsControl(t *testing.T, c *Cluster) {
	ctx := within(t, 2*time.Minute)
	if err := c.Restart(ctx, "control"); err != nil {
		t.Fatal(err)
	}
	if err := c.check(ctx); err != nil {
		t.Fatal(err)
	}
	reachEcho(t, c)
}

// observation is what a cluster might change on this machine.
type observation struct {
	sysctls, links, files, cgroups map[string]string
}

func observe(t *testing.T) observation {
	t.Helper()
	o := observation{sysctls: map[string]string{}, links: map[string]string{}, files: map[string]string{}, cgroups: rootCgroups(t)}
	keys := append(sortedKeys(kernelSysctls), sortedKeys(machineSysctls)...)
	for _, key := range append(keys, "net/netfilter/nf_conntrack_max", "net/bridge/bridge-nf-call-iptables", "kernel/printk") {
		b, err := os.ReadFile("/proc/sys/" + key)
		if err != nil {
			t.Fatal(err)
		}
		o.sysctls[key] = string(b)
	}
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		o.links[e.Name()] = ""
	}
	for _, dir := range append(slices.Concat(ownDirs, nodeBinds), "/var/lib/etcd", "/run/containerd", "/var/lib/warren-testcluster") {
		_, err := os.Stat(dir)
		o.files[dir] = fmt.Sprint(err)
	}
	return o
}

// rootCgroups are what lies in the root of each hierarchy, and what that of cgroup2 hands on. Warren's other tests, which may
// run meanwhile, name theirs after it.
func rootCgroups(t *testing.T) map[string]string {
	t.Helper()
	hs, err := machine.Hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, h := range hs {
		entries, err := os.ReadDir(h.Mount)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() && !strings.HasPrefix(e.Name(), "warren-") {
				all[filepath.Join(h.Mount, e.Name())] = "is there"
			}
		}
		if h.Controllers != "" {
			continue
		}
		control := filepath.Join(h.Mount, "cgroup.subtree_control")
		b, err := os.ReadFile(control)
		if err != nil {
			t.Fatal(err)
		}
		all[control] = string(b)
	}
	return all
}

// leavesNothing compares with before, and looks for what bears the cluster's name.
func leavesNothing(t *testing.T, c *Cluster, before observation) {
	after := observe(t)
	for name, pair := range map[string][2]map[string]string{"sysctls": {before.sysctls, after.sysctls}, "links": {before.links, after.links},
		"directories": {before.files, after.files}, "cgroups": {before.cgroups, after.cgroups}} {
		if !maps.Equal(pair[0], pair[1]) {
			t.Errorf("%s were %v, are %v", name, pair[0], pair[1])
		}
	}
	cgroups, err := machine.FindCgroups(cgroupPrefix(c.options.Name))
	if err != nil || len(cgroups) > 0 {
		t.Errorf("cgroups are left: %v, %v", cgroups, err)
	}
	if _, err := os.Stat(c.dir); err == nil {
		t.Errorf("%s is left", c.dir)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), c.dir) {
		t.Errorf("mounts are left:\n%s", mounts)
	}
	// Every process of a machine has mounts below the state directory.
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		args, _ := os.ReadFile(p + "/cmdline")
		mounts, _ := os.ReadFile(p + "/mountinfo")
		if strings.Contains(string(args), c.dir+"/") || strings.Contains(string(mounts), c.dir+"/") {
			t.Errorf("process %s is left: %q", p, args)
		}
	}
}

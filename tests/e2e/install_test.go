// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/cli"
	"helm.sh/helm/v4/pkg/kube"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/warren-mesh/warren/deploy/install"
)

// TestUninstallLeavesNothing removes Warren below pods that run and talk, by the library and by Helm alone, and installs
// it again: the pods are never restarted, and from outside into the mesh no new connection of theirs fails. What it did for
// that shows that Warren's accounts need every right they have.
func TestUninstallLeavesNothing(t *testing.T) {
	m := Alone(t)
	image := m.image(t)
	nodes := m.Nodes()
	rights, began := m.rights(t), time.Now()
	ns := m.Namespace(t, "uninstall", Enrolled())
	ns.Service(Service{Name: "server"})
	pods := ns.Deploy(App{Name: "client", Node: nodes[0]}, App{Name: "server", Node: nodes[1]})
	client, server := pods[0], pods[1]
	ways := []struct {
		name   string
		remove func(context.Context) error
	}{
		{"make uninstall", func(ctx context.Context) error {
			return install.Uninstall(ctx, install.Options{Config: m.Config(), Progress: os.Stderr})
		}},
		{"helm uninstall", func(ctx context.Context) error { return helmUninstall(m) }},
	}
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			ns := ns.In(t)
			ns.ApplyFaulty()
			client.Reaches("tcp4", "server:80")
			tunnelled := "before-" + strings.ReplaceAll(w.name, " ", "-")
			if leaks := m.said(t, client, tunnelled); leaks {
				t.Fatal("in the mesh, and readable between the nodes")
			}
			if n := attached(t, client); n == 0 {
				t.Fatal("no program of a captured pod is found: this test would see none that is left either")
			}
			began := time.Now()
			if err := w.remove(ctx); err != nil {
				t.Fatal(err)
			}
			t.Logf("removed in %v", time.Since(began).Round(time.Millisecond))
			for _, p := range []*Pod{client, server} {
				if n := attached(t, p); n != 0 {
					t.Errorf("%d programs are left at %s", n, p)
				}
				if s := sysctls(t, p); s != "2 " {
					t.Errorf("sysctls of %s: %q", p, s)
				}
				if v := p.In(t).Captured(); v != "" {
					t.Errorf("%s says captured: %q", p, v)
				}
			}
			for _, n := range nodes {
				if left := m.traces(t, n); left != "" {
					t.Errorf("left on %s:\n%s", n, left)
				}
			}
			ns.checkUnjudged()
			if !m.said(t, client, "after-"+tunnelled) {
				t.Error("outside the mesh, and not readable between the nodes")
			}
			if w.name == "make uninstall" {
				for _, o := range m.leftObjects(t) {
					t.Errorf("left on the API: %s", o)
				}
			}
			load := client.In(t).Load("-every", "20ms", "echo://server:80")
			if err := install.Install(ctx, install.Options{Config: m.Config(), Image: image, Progress: os.Stderr}); err != nil {
				t.Fatal(err)
			}
			for _, p := range []*Pod{client, server} {
				p.In(t).WaitCaptured("true")
			}
			client.In(t).Reaches("tcp4", "server:80")
			checkFresh(t, load.Stop()) // no connection fails for it that the mesh comes
		})
	}
	t.Run("every right is used", func(t *testing.T) { m.everyRightIsUsed(t, rights, began) })
}

// image is what runs.
func (m *Mesh) image(t *testing.T) string {
	t.Helper()
	d, err := m.Client().AppsV1().DaemonSets(system).Get(t.Context(), ztunnelName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return d.Spec.Template.Spec.Containers[0].Image
}

// said reports whether what the client tells the server can be read between the nodes. That it arrives is checked.
func (m *Mesh) said(t *testing.T, client *Pod, marker string) bool {
	t.Helper()
	wire := m.Wire(t)
	defer wire.Stop()
	if a := client.In(t).Talk("tcp4", "server:80", marker); !a.OK() {
		t.Fatalf("talk to the server: %+v", a)
	}
	wire.Stop()
	return len(wire.Contains([]byte(marker))) > 0
}

// helmUninstall is `helm uninstall warren -n warren-system --wait`, and the two commands it takes besides.
func helmUninstall(m *Mesh) error {
	c, err := helmOf(m)
	if err != nil {
		return err
	}
	u := action.NewUninstall(c)
	u.Timeout, u.WaitStrategy = 2*time.Minute, kube.HookOnlyStrategy
	if _, err := u.Run(install.Release); err != nil {
		return fmt.Errorf("helm uninstall: %w", err)
	}
	return nil
}

// helmOf is Helm as on its command line.
func helmOf(m *Mesh) (*action.Configuration, error) {
	settings := cli.New()
	settings.KubeConfig = m.Kubeconfig()
	settings.SetNamespace(system)
	c := action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler))
	return c, c.Init(settings.RESTClientGetter(), system, "secret")
}

// traces are Warren's on a node, none when empty.
func (m *Mesh) traces(t *testing.T, node string) string {
	t.Helper()
	out, err := m.NodeShell(t.Context(), node, "sh", "-c", `
		ls -d /sys/fs/bpf/warren /run/warren /var/lib/warren /opt/cni/bin/*warren* /etc/cni/net.d/*warren* 2>/dev/null
		grep -l warren /etc/cni/net.d/* /opt/cni/bin/.* 2>/dev/null
		true`)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// leftObjects are those of Warren on the API.
func (m *Mesh) leftObjects(t *testing.T) []string {
	t.Helper()
	var left []string
	if _, err := m.Client().CoreV1().Namespaces().Get(t.Context(), system, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		left = append(left, fmt.Sprintf("namespace %s (%v)", system, err))
	}
	for _, r := range []schema.GroupVersionResource{
		{Version: "v1", Resource: "configmaps"},
		{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"},
		{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicies"},
		{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicybindings"},
	} {
		list, err := m.Dynamic().Resource(r).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Items {
			if strings.Contains(o.GetName(), "warren") && o.GetName() != loaded {
				left = append(left, r.Resource+" "+o.GetNamespace()+"/"+o.GetName())
			}
		}
	}
	slices.Sort(left)
	return left
}

// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// outside runs warrenctl, the image's own, as somebody does who has a kubeconfig and nothing else.
type outside struct {
	t       *testing.T
	program string
	args    []string
}

func newOutside(t *testing.T, m *Mesh) outside {
	t.Helper()
	agent := m.Agent(t, m.Nodes()[0]).PIDs()
	if len(agent) == 0 {
		t.Fatal("no agent runs")
	}
	return outside{t, fmt.Sprintf("/proc/%d/root/warrenctl", agent[0]), []string{"--kubeconfig", m.Kubeconfig()}}
}

// run gives what it prints; its complaints are the error.
func (o outside) run(args ...string) (string, error) {
	var stderr strings.Builder
	all := append(append(args[:1:1], o.args...), args[1:]...) // what is completed comes last
	cmd := exec.CommandContext(o.t.Context(), o.program, all...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("warrenctl %v: %w: %s", args, err, stderr.String())
	}
	return string(out), err
}

func (o outside) want(args []string, words ...string) {
	o.t.Helper()
	out, err := o.run(args...)
	if err != nil {
		o.t.Error(err)
	}
	flat := strings.Join(strings.Fields(out), " ")
	for _, w := range words {
		if !strings.Contains(flat, w) {
			o.t.Errorf("warrenctl %v lacks %q:\n%s", args, w, out)
		}
	}
}

// TestWarrenctlFromOutside asks the nodes through port forwards of a real API server and kubelets.
func TestWarrenctlFromOutside(t *testing.T) {
	m := Shared(t)
	o := newOutside(t, m)
	ns := m.Namespace(t, "outside", Enrolled())
	ns.Service(Service{Name: "web"})
	nodes := m.Nodes()
	pods := ns.Deploy(App{Name: "client", Node: nodes[0]}, App{Name: "web", Node: nodes[1]})
	client, web := pods[0], pods[1]

	o.want([]string{"explain", ns.Name + "/" + client.Name, "web:80"}, "on "+nodes[0]+" -> web:80: allowed", "+ "+ns.Name+"/"+web.Name, "answered by the ztunnel of node "+nodes[0])
	o.want([]string{"explain", web.Name, "web." + ns.Name + ":80", "-n", ns.Name}, "answered by the ztunnel of node "+nodes[1])
	o.want([]string{"workloads", "-n", ns.Name}, client.Name+" ", web.Name+" ", "HBONE captured")
	o.want([]string{"certificates"}, ns.Identity("client"), ns.Identity("web")) // each known to one node only
	o.want([]string{"__complete", "explain", ""}, ns.Name+"/"+client.Name)
	l := client.Load("-every", "1s", "hold://web:80")
	Eventually(t, 20*time.Second, "the connection is seen from both ends", func() string {
		out, err := o.run("connections", "-n", ns.Name, "-o", "json")
		if err != nil || !strings.Contains(out, `"Outbound"`) || !strings.Contains(out, `"Inbound"`) {
			return fmt.Sprint(err, out)
		}
		return ""
	})
	l.Stop()

	ns.Apply("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: nobody}\nspec: {}\n")
	Eventually(t, 10*time.Second, "explain knows the policy", func() string {
		out, err := o.run("explain", ns.Name+"/"+client.Name, "web:80", "-o", "json")
		var a struct{ Verdict, Reason, Policy string }
		if err := json.Unmarshal([]byte(out), &a); err != nil || a.Reason != "POLICY_NO_ALLOW" || a.Policy != ns.Name+"/nobody" {
			return fmt.Sprint(err, out)
		}
		if err != nil {
			return err.Error()
		}
		return ""
	})

	// Others' tests may have something broken on purpose: what is said of the nodes counts, not the exit status.
	status, _ := o.run("status")
	check, _ := o.run("check")
	for _, n := range nodes {
		for _, part := range []string{"agent", "broker", "ztunnel"} {
			if !strings.Contains(strings.Join(strings.Fields(status), " "), n+" "+part) || !strings.Contains(check, n+": "+part) {
				t.Errorf("nothing of the %s on %s:\n%s\n%s", part, n, status, check)
			}
		}
	}
	for _, w := range []string{"control", "first certificate expires at"} {
		if !strings.Contains(status, w) {
			t.Errorf("status lacks %q:\n%s", w, status)
		}
	}
	for _, w := range []string{"API server", "kind meshconfigs", "RBAC of Warren's service accounts ok", "kernels ok", "DaemonSet warren-node ok",
		"ValidatingAdmissionPolicy warren-node ok", "ValidatingAdmissionPolicyBinding warren-node ok"} {
		if !strings.Contains(strings.Join(strings.Fields(check), " "), w) {
			t.Errorf("check lacks %q:\n%s", w, check)
		}
	}
}

// TestWarrenctlEnrols a running pod's namespace, and takes it out again.
func TestWarrenctlEnrols(t *testing.T) {
	m := Shared(t)
	o := newOutside(t, m)
	ns := m.Namespace(t, "enrols")
	p := ns.Deploy(App{Name: "web", Uncaught: true})[0]
	o.want([]string{"enrol", ns.Name}, "label warren.dev/mesh enabled")
	p.WaitCaptured("true")
	o.want([]string{"unenrol", ns.Name}, "label warren.dev/mesh removed")
	p.WaitCaptured("")
}

// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh/dump"
	"github.com/warren-mesh/warren/tests/cluster"
)

const (
	apiServer = "control/kube-apiserver"

	// outageVariable is for those who work on this test: how long the API server stays away.
	outageVariable = "WARREN_E2E_OUTAGE"
	usualOutage    = 6 * time.Minute // five of them with the connections from before
	// outageTTL is the shortest lifetime of certificates there is. They are renewed half-way.
	outageTTL = time.Minute
	// restartsTake is how long before the end of the outage parts are killed.
	restartsTake = time.Minute
	// remembered is how long control takes a node at a word that the API server confirmed. Before that is over nothing is
	// seen of what it does without.
	remembered = time.Minute
)

// TestAPIServerAway takes the API server away for five minutes and one more: on a cluster of its own, beside the other tests. The mesh
// goes on, certificates are renewed, parts that die come back; what is new waits, and says so.
func TestAPIServerAway(t *testing.T) {
	b := newBusy(t, Own(t, "away", map[string]any{"control": map[string]any{"leafTTL": outageTTL.String()}}))
	o := beginOutage(t, b)
	t.Parallel() // the others' turn; it takes long
	time.Sleep(time.Until(o.began.Add(o.length - restartsTake)))

	killed := time.Now()
	t.Run("a replica is killed", o.loseReplica)
	t.Run("the other signs", func(t *testing.T) { o.checkRenewed(t, killed) })
	t.Run("connections", o.checkConnections)
	t.Run("new pods", o.startNewPods)
	restarted := time.Now()
	t.Run("restarts", o.restart)
	t.Run("the restarted get certificates", func(t *testing.T) { o.checkRenewed(t, restarted) })
	t.Run("it says so", o.checkStale)
	t.Run("a new pod of the mesh waits", o.checkRefused)
	time.Sleep(time.Until(o.began.Add(o.length)))
	t.Run("it returns", o.end)
	t.Run("others that hang", o.others)
}

// outage is the mesh without API server.
type outage struct {
	*busy
	began  time.Time
	length time.Duration
	load   busyLoad
}

// beginOutage stops the API server under load.
func beginOutage(t *testing.T, b *busy) *outage {
	t.Helper()
	o := &outage{busy: b, length: usualOutage}
	if v := os.Getenv(outageVariable); v != "" {
		var err error
		if o.length, err = time.ParseDuration(v); err != nil || o.length < restartsTake+remembered {
			t.Fatalf("%s=%s: want a duration of %v or more", outageVariable, v, restartsTake+remembered)
		}
	}
	o.load = o.gentleLoad(t)
	t.Cleanup(func() { // whatever happens: the others' cleaning up needs it
		if err := o.Start(context.WithoutCancel(t.Context()), apiServer); err != nil {
			t.Log(err)
		}
	})
	if err := o.Stop(t.Context(), apiServer); err != nil {
		t.Fatal(err)
	}
	o.began = time.Now()
	if _, err := o.Client().Discovery().ServerVersion(); err == nil {
		t.Fatal("the API server still answers")
	}
	return o
}

// gentleLoad is load's, but it lets the other tests live.
func (o *outage) gentleLoad(t *testing.T) busyLoad {
	t.Helper()
	c := o.client.In(t)
	l := busyLoad{
		fresh: c.Load("-line", o.marker, "-every", "100ms", "echo://near:80", "echo://far:80"),
		held:  c.Load("-line", o.marker, "-every", "1s", "hold://near:80", "hold://far:80"),
	}
	return l
}

// certificates are those of the test's pods, by node and identity.
func (o *outage) certificates(t *testing.T) map[string]dump.CertificateInfo {
	t.Helper()
	out := map[string]dump.CertificateInfo{}
	for _, node := range o.Nodes() {
		var page struct {
			Certificates []dump.Certificate `json:"certificates"`
		}
		if err := o.Ztunnel(t, node).JSON("http://localhost:15000/config_dump", &page); err != nil {
			t.Fatal(err)
		}
		for _, c := range page.Certificates {
			if strings.Contains(c.Identity, "/ns/"+o.ns.Name+"/") && len(c.Chain) > 0 {
				out[node+" "+c.Identity] = c.Chain[0]
			}
		}
	}
	if len(out) != 3 {
		t.Fatalf("certificates of three pods are wanted, there are: %v", out)
	}
	return out
}

// loseReplica kills one replica of control, whose next process has no keys while nobody gives it the Secret.
func (o *outage) loseReplica(t *testing.T) {
	all := o.Control(t).children()
	if len(all) != 2 {
		t.Fatalf("processes %v of control, want two replicas", all)
	}
	if err := syscall.Kill(all[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	Eventually(t, 20*time.Second, "the killed replica waits for its Secret", func() string {
		log := o.Control(t).LogSince(o.began)
		if !strings.Contains(log, `msg="waiting for the authority"`) {
			return "it does not say so"
		}
		return ""
	})
}

// checkRenewed waits until every certificate was signed after a moment.
func (o *outage) checkRenewed(t *testing.T, after time.Time) {
	t.Helper()
	Eventually(t, outageTTL, fmt.Sprintf("every certificate was signed after %v", after.Format(time.TimeOnly)), func() string {
		for who, c := range o.certificates(t) {
			if signed := c.NotAfter.Add(-outageTTL); signed.Before(after.Add(-time.Second)) { // times in it are whole seconds
				return fmt.Sprintf("%s's was signed at %v", who, signed.Format(time.TimeOnly))
			}
		}
		return ""
	})
}

// checkConnections ends the load that ran from before the outage.
func (o *outage) checkConnections(t *testing.T) {
	fresh, held := o.load.stop()
	t.Logf("%v without API server: %d new connections, longest silence %v; %d requests on those that stayed",
		time.Since(o.began).Round(time.Second), fresh.OK, fresh.Longest.Round(time.Millisecond), held.OK)
	if fresh.OK == 0 || fresh.Failed > 0 {
		t.Errorf("new connections: %d went well, %d failed: %+v", fresh.OK, fresh.Failed, fresh.Failures)
	}
	checkHeld(t, held, 0)
}

// startNewPods has the kubelet of the client's node start two pods of which the API server knows nothing: one in the
// mesh's namespace and one outside.
func (o *outage) startNewPods(t *testing.T) {
	for namespace, port := range map[string]int{o.ns.Name: staticInside, "default": staticOutside} {
		manifest := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "late", "namespace": %q},
			"spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "app", "image": %q, "imagePullPolicy": "Never", "args": ["serve", "echo=:%d"]}]}}`,
			namespace, o.App, port)
		file := staticManifest(port)
		if _, err := o.NodeShellInput(t.Context(), o.client.Node, strings.NewReader(manifest), "sh", "-c", "cat > "+file); err != nil {
			t.Fatal(err)
		}
	}
	Eventually(t, 40*time.Second, "a pod outside the mesh starts", func() string {
		if !o.serves(t, staticOutside) {
			return "it does not run"
		}
		return ""
	})
}

// Ports by which the pods are told apart.
const staticInside, staticOutside = 7771, 7772

func staticManifest(port int) string {
	return fmt.Sprintf("/etc/kubernetes/manifests/late-%d.json", port)
}

// serves says whether a pod of the client's node serves the port.
func (o *outage) serves(t *testing.T, port int) bool {
	t.Helper()
	all, err := o.ProcessesOn(o.client.Node)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(all, func(p cluster.Process) bool { return strings.HasSuffix(p.Command, fmt.Sprint(" echo=:", port)) })
}

// checkRefused fails unless the agent said why the pod of the mesh does not start.
func (o *outage) checkRefused(t *testing.T) {
	const why = "its Pod object has not reached the agent (does the API server answer it?"
	Eventually(t, 40*time.Second, "the agent says why the pod does not start", func() string {
		for line := range strings.Lines(o.Agent(t, o.client.Node).LogSince(o.began)) {
			if strings.Contains(line, "op=add pod="+o.ns.Name+"/late") && strings.Contains(line, why) {
				return ""
			}
		}
		return "it does not"
	})
	if o.serves(t, staticInside) {
		t.Error("a pod of the mesh started without being captured")
	}
	for _, port := range []int{staticInside, staticOutside} {
		if _, err := o.NodeShell(t.Context(), o.client.Node, "rm", staticManifest(port)); err != nil {
			t.Fatal(err)
		}
	}
}

// restart kills every part on the nodes: on the client's its process, on the server's its container.
func (o *outage) restart(t *testing.T) {
	for _, tt := range []struct {
		name string
		part func(*testing.T, string) *Part
		lost int // connections
	}{
		{"broker", func(t *testing.T, n string) *Part { return o.Broker(t, n) }, 0},
		{"agent", func(t *testing.T, n string) *Part { return o.Agent(t, n) }, 0},
		{"ztunnel", func(t *testing.T, n string) *Part { return o.Ztunnel(t, n) }, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			load := o.gentleLoad(t)
			o.settled(t)
			tt.part(t, o.client.Node).killChildren()
			tt.part(t, o.far.Node).killContainer()
			o.settled(t)
			fresh, held := load.stop()
			t.Logf("%d new connections, %d of them failed, longest silence %v", fresh.OK+fresh.Failed, fresh.Failed, fresh.Longest.Round(time.Millisecond))
			checkHeld(t, held, tt.lost)
			if tt.lost == 0 && fresh.Failed > 0 {
				t.Errorf("new connections failed: %+v", fresh.Failures)
			}
		})
	}
}

// settled waits until both servers answer a new connection.
func (o *outage) settled(t *testing.T) {
	t.Helper()
	for _, server := range []string{"near:80", "far:80"} {
		Eventually(t, 30*time.Second, server+" answers", func() string {
			if a := o.client.In(t).Talk("tcp4", server, o.marker); !a.OK() {
				return fmt.Sprintf("%+v", a)
			}
			return ""
		})
	}
}

// killContainer kills the container's first process, and with it all others; the kubelet starts the container again.
func (p *Part) killContainer() {
	p.t.Helper()
	dead := p.PIDs()
	if len(dead) < 2 {
		p.t.Fatalf("processes %v of %s, want a supervisor and its child", dead, p.main)
	}
	if err := syscall.Kill(dead[0], syscall.SIGKILL); err != nil {
		p.t.Fatal(err)
	}
	Eventually(p.t, time.Minute, "the kubelet starts "+p.main+" again", func() string {
		if now := p.PIDs(); len(now) < 2 || slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(dead, pid) }) {
			return fmt.Sprintf("processes %v, killed %v", now, dead)
		}
		return ""
	})
}

// checkStale wants both agents, which were started without API server, to mark what they serve.
func (o *outage) checkStale(t *testing.T) {
	for _, node := range o.Nodes() {
		agent := o.Agent(t, node)
		Eventually(t, 20*time.Second, "the agent of "+node+" marks its snapshot stale", func() string {
			type kind struct{ Kind, Error string }
			var page struct {
				Stale bool `json:"stale"`
				Kinds []kind
			}
			if err := agent.JSON("http://localhost:15000/debug/objects", &page); err != nil {
				return err.Error()
			}
			// One is enough: a request may also hang.
			if !page.Stale || !slices.ContainsFunc(page.Kinds, func(k kind) bool { return k.Error != "" }) {
				return fmt.Sprintf("its page says %+v", page)
			}
			return ""
		})
		metrics := agent.Metrics()
		if !strings.Contains(metrics, "\nwarren_objects_stale 1\n") {
			t.Errorf("%s: no metric says stale", node)
		}
		if Metric(metrics, "warren_objects_watch_failing") == 0 || Metric(metrics, "warren_objects_synced") > 0 {
			t.Errorf("%s: no metric says that objects can't be watched, or some were", node)
		}
		if log := agent.LogSince(o.began); !strings.Contains(log, "serving the last snapshot") {
			t.Errorf("%s: the log does not say what is served", node)
		}
	}
}

// end starts the API server, and wants all to catch up with nothing started again for it.
func (o *outage) end(t *testing.T) {
	load := o.gentleLoad(t)
	o.settled(t)
	was := o.processIDs(t)
	if err := o.Start(t.Context(), apiServer); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	Eventually(t, time.Minute, "the API server answers", func() string {
		if _, err := o.Client().Discovery().ServerVersion(); err != nil {
			return err.Error()
		}
		return ""
	})
	up := time.Now()
	for _, node := range o.Nodes() {
		// kube-proxy, which has to give the API server's own Service its endpoint back, tries again only every 30 to 60
		// seconds after so long an outage: client-go's cap.
		Eventually(t, 3*time.Minute, "the agent of "+node+" has caught up", func() string {
			if m := o.Agent(t, node).Metrics(); !strings.Contains(m, "\nwarren_objects_stale 0\n") || Metric(m, "warren_objects_watch_failing") > 0 {
				return "its objects are stale, or some can't be watched"
			}
			return ""
		})
	}
	t.Logf("it answered %v after its start; both agents had caught up %v later", up.Sub(back).Round(time.Millisecond), time.Since(up).Round(time.Millisecond))
	if err := o.whole(t.Context()); err != nil {
		t.Error(err)
	}
	o.Control(t).waitServes()
	for _, p := range []*Pod{o.client, o.near, o.far} {
		if got := p.In(t).Captured(); got != "true" {
			t.Errorf("%s is captured: %q", p, got)
		}
	}
	late := o.ns.In(t).Deploy(App{Name: "later", Node: o.far.Node})[0]
	if a := o.client.In(t).Talk("tcp4", late.Addr("tcp4", EchoPort).String(), o.marker); !a.OK() {
		t.Errorf("a pod started after the outage: %+v", a)
	}
	fresh, held := load.stop()
	checkHeld(t, held, 0)
	if fresh.Failed > 0 {
		t.Errorf("new connections failed while it returned: %+v", fresh.Failures)
	}
	if now := o.processIDs(t); !maps.EqualFunc(now, was, slices.Equal[[]int]) {
		t.Errorf("processes were %v, and are %v", was, now)
	}
}

// processIDs are those of every part.
func (o *outage) processIDs(t *testing.T) map[string][]int {
	out := map[string][]int{"control": o.Control(t).PIDs()}
	for _, n := range o.Nodes() {
		for _, p := range []*Part{o.Broker(t, n), o.Agent(t, n), o.Ztunnel(t, n)} {
			out[n+" "+p.main] = p.PIDs()
		}
	}
	return out
}

// others has what else a cluster consists of hang, or go, for a while.
func (o *outage) others(t *testing.T) {
	signal := func(target string, sig syscall.Signal) func(*testing.T) error {
		return func(t *testing.T) error { return o.Signal(context.WithoutCancel(t.Context()), target, sig) }
	}
	control := func(sig syscall.Signal) func(*testing.T) error {
		return func(t *testing.T) (err error) {
			for _, pid := range o.Control(t).children() {
				err = errors.Join(err, syscall.Kill(pid, sig))
			}
			return err
		}
	}
	for _, tt := range []struct {
		name     string
		begin    func(*testing.T) error
		end      func(*testing.T) error
		lasts    time.Duration
		renewing bool // certificates, meanwhile
	}{
		{"etcd hangs", signal("control/etcd", syscall.SIGSTOP), signal("control/etcd", syscall.SIGCONT), 15 * time.Second, false},
		{"every control hangs", control(syscall.SIGSTOP), control(syscall.SIGCONT), 15 * time.Second, false},
		{"no kubelet", func(t *testing.T) error { return o.Stop(t.Context(), o.far.Node+"/kubelet") },
			func(t *testing.T) error { return o.Start(context.WithoutCancel(t.Context()), o.far.Node+"/kubelet") }, 5 * time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			load := o.gentleLoad(t)
			o.settled(t)
			began := time.Now()
			undo := func() {
				if err := tt.end(t); err != nil {
					t.Error(err)
				}
			}
			defer func() { undo() }()
			if err := tt.begin(t); err != nil {
				t.Fatal(err)
			}
			time.Sleep(tt.lasts) // long enough for what waits to show
			if tt.renewing {
				o.checkRenewed(t, began)
			}
			undo()
			undo = func() {}
			o.settled(t)
			fresh, held := load.stop()
			t.Logf("%v: %d new connections, longest silence %v", time.Since(began).Round(time.Second), fresh.OK, fresh.Longest.Round(time.Millisecond))
			checkHeld(t, held, 0)
			if fresh.Failed > 0 {
				t.Errorf("new connections failed: %+v", fresh.Failures)
			}
			if err := o.whole(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/explain"
	"github.com/warren-mesh/warren/tests/testutil"
)

// explained is a mesh whose policies and topology change from round to round, and those who connect in it.
type explained struct {
	*Mesh
	dice    *rand.Rand
	servers []*Pod // of the service mix
	clients []*Pod
	plain   *Pod // serves outside the mesh
	round   int
	port    uint16 // the last that a connection had
}

func newExplained(t *testing.T) *explained {
	m := New(t, Options{})
	m.Namespace("app", Enrolled())
	m.Namespace("back", Enrolled())
	seed := explainSeed(t)
	x := &explained{Mesh: m, dice: rand.New(rand.NewPCG(seed, 0)), port: firstPort}
	for i, node := range []string{"a", "b", "b"} {
		name := fmt.Sprintf("srv%d", i)
		x.servers = append(x.servers, m.Node(node).Pod(name, In("app"), ServiceAccount(name), Labels("app", "mix", "srv", name)))
		m.Service(name, "app", map[string]string{"srv": name}, TCP(80, 8080))
	}
	m.Service("mix", "app", map[string]string{"app": "mix"}, TCP(80, 8080), TCP(81, 7000))
	m.Service("bare", "app", map[string]string{"app": "mix"}, TCP(8080, 8080), Headless())
	x.plain = m.Node("b").Pod("plain", Labels("app", "plain"))
	m.Service("plain", x.plain.Namespace, map[string]string{"app": "plain"}, TCP(80, 8080))
	x.clients = []*Pod{
		m.Node("a").Pod("client", In("app"), ServiceAccount("client")), m.Node("a").Pod("other", In("back"), ServiceAccount("other")),
		m.Node("b").Pod("third", In("back"), ServiceAccount("third")), m.Node("a").Pod("outsider"), x.servers[1],
	}
	for _, p := range append(slices.Clone(x.servers), x.plain) {
		echo(t, p, ":8080")
		echo(t, p, ":7000")
	}
	m.Up()
	return x
}

// firstPort is above Warren's own, and leaves room below those that the kernel gives out.
const firstPort = 16000

// explainSeed draws the policies, topologies and connections of a run. WARREN_EXPLAIN_SEED takes those of an earlier one, which
// wrote its seed into its log.
func explainSeed(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("WARREN_EXPLAIN_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("read WARREN_EXPLAIN_SEED: %v (it is a number, as this test logs it)", err)
		}
	}
	t.Logf("WARREN_EXPLAIN_SEED=%d", seed)
	return seed
}

// one of a list.
func (x *explained) of(list ...string) string { return list[x.dice.IntN(len(list))] }

func (x *explained) rule() string {
	// The one client whose address is all that a server sees of it.
	outsider := x.clients[3].IPv4.String() + ", " + x.clients[3].IPv6.String()
	from := x.of("", "", "ipBlocks: ["+outsider+"]", "notIpBlocks: ["+outsider+"]", "principals: [cluster.local/ns/app/sa/client]", "principals: ['*/sa/other']", "notPrincipals: ['*']", "namespaces: [app]", "namespaces: [back]",
		"notNamespaces: [app]", "serviceAccounts: [client]", "serviceAccounts: [back/other]", "ipBlocks: ["+x.clients[3].IPv4.String()+"]",
		"notIpBlocks: ["+x.clients[0].IPv4.String()+", "+x.clients[0].IPv6.String()+"]")
	to := x.of("", "", "ports: ['8080']", "ports: ['7000']", "notPorts: ['8080']")
	when := x.of("", "", "", "", "key: source.ip, values: ["+x.clients[3].IPv4.String()+", "+x.clients[3].IPv6.String()+"]",
		"key: source.ip, notValues: ["+x.clients[0].IPv4.String()+"/31]", "key: source.principal, values: ['*/sa/other', cluster.local/ns/app/sa/client]",
		"key: source.principal, notValues: ['*']", "key: destination.port, values: ['8080']", "key: destination.port, notValues: ['8080', '15001']")
	var parts []string
	if from != "" {
		parts = append(parts, "from: [{source: {"+from+"}}]")
	}
	if to != "" {
		parts = append(parts, "to: [{operation: {"+to+"}}]")
	}
	if when != "" {
		parts = append(parts, "when: [{"+when+"}]")
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// guards draws an AuthorizationPolicy of a namespace, or removes it.
func (x *explained) guards(namespace, name string, often int) {
	if x.dice.IntN(often) != 0 {
		x.Remove("AuthorizationPolicy", namespace, name)
		return
	}
	spec := "action: " + x.of("ALLOW", "ALLOW", "DENY", "AUDIT")
	if x.dice.IntN(2) == 0 {
		spec += x.of(", selector: {matchLabels: {app: mix}}", ", selector: {matchLabels: {srv: srv1}}", ", selector: {matchLabels: {srv: nobody}}")
	}
	var rules []string
	for range x.dice.IntN(3) {
		rules = append(rules, x.rule())
	}
	dry := x.of("", "", "", ", annotations: {istio.io/dry-run: \"true\"}")
	x.Apply(fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: %s, namespace: %s%s}\nspec: {%s, rules: [%s]}\n", name, namespace, dry, spec, strings.Join(rules, ", ")))
}

// change makes another mesh, and waits until both nodes know it.
func (x *explained) change(t *testing.T) {
	x.round++
	for i := range 3 {
		x.guards("app", fmt.Sprintf("guard%d", i), 2)
	}
	x.guards(mesh.DefaultRootNamespace, "everywhere", 4)
	x.Remove("PeerAuthentication", "app", "mode")
	if x.round%3 == 0 { // the address alone decides: of three policies and STRICT there is mostly one that hides it
		for i := range 3 {
			x.Remove("AuthorizationPolicy", "app", fmt.Sprintf("guard%d", i))
		}
		x.Apply(fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: guard0, namespace: app}\nspec: {action: %s, rules: [{from: [{source: {%s: [%s, %s]}}]}]}\n",
			x.of("ALLOW", "DENY"), x.of("ipBlocks", "notIpBlocks"), x.clients[3].IPv4, x.clients[3].IPv6))
	} else if mode := x.of("", "", "mtls: {mode: STRICT}", "selector: {matchLabels: {app: mix}}, mtls: {mode: STRICT}",
		"selector: {matchLabels: {srv: srv0}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}}"); mode != "" {
		x.Apply("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: mode, namespace: app}\nspec: {" + mode + "}\n")
	}
	for _, p := range x.servers {
		p.SetReady(x.dice.IntN(4) != 0)
	}
	if x.round%5 == 0 { // the last server leaves the mesh, or joins it again
		word, choice := "true", "enabled"
		if x.round%10 == 5 {
			word, choice = "", "disabled"
		}
		x.servers[2].Change(func(o *corev1.Pod) { o.Annotations = map[string]string{"warren.dev/mesh": choice} })
		testutil.Eventually(t, told, "the last server is "+choice, func() bool {
			got := x.Captured(x.servers[2])
			return got == word || word == "" && got == "OptedOut"
		})
	}
	// Objects are read in the order in which they are written: who knows this one knows all before it.
	x.Apply(fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: marker, namespace: app}\nspec: {action: AUDIT, rules: [{to: [{operation: {ports: ['%d']}}]}]}\n", 20000+x.round))
	testutil.Eventually(t, told, "both nodes know the objects", func() bool {
		a, b := x.knows(t, x.Node("a")), x.knows(t, x.Node("b"))
		return strings.Contains(a, fmt.Sprintf("destinationPorts:[%d]", 20000+x.round)) && a == b
	})
}

// known is what both nodes' ztunnels know.
func (x *explained) known(t *testing.T) [2]string {
	return [2]string{x.knows(t, x.Node("a")), x.knows(t, x.Node("b"))}
}

// knows is what a node's ztunnel knows of the mesh.
func (x *explained) knows(t *testing.T, n *Node) string {
	body, _, err := n.System.Ztunnel.Pod.Get("http://localhost:15000/config_dump")
	var d struct{ Workloads, Services, Policies any }
	if err == nil {
		err = json.Unmarshal([]byte(body), &d)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(d)
}

// ask asks a node's agent, which passes it on.
func (x *explained) ask(t *testing.T, n *Node, q url.Values) *explain.Answer {
	t.Helper()
	body, status, err := n.System.Agent.Pod.Get("http://localhost:15000/debug/explain?" + q.Encode())
	a := new(explain.Answer)
	if err == nil && status == 200 {
		err = json.Unmarshal([]byte(body), a)
	}
	if err != nil || status != 200 {
		t.Errorf("explain %v: status %d, %v: %s", q, status, err, body)
		return nil
	}
	return a
}

// attempted is one connection, and what was told of it before.
type attempted struct {
	from  *Pod
	query url.Values
	told  *explain.Answer
	port  uint16 // its own, by which logs name it: the kernel gives one to several that lead to different places
	local string
	err   error
}

func (x *explained) query() (from *Pod, q url.Values) {
	from = x.clients[x.dice.IntN(len(x.clients))]
	server := x.servers[x.dice.IntN(len(x.servers))]
	q = url.Values{"src": {x.of(from.String(), from.UID, from.IPv4.String())}, "family": {x.of("4", "6")}}
	switch x.dice.IntN(6) {
	case 0, 1:
		q["dst"], q["port"] = []string{"service/app/mix"}, []string{x.of("80", "80", "81")}
	case 2:
		q["dst"], q["port"] = []string{x.of("app/"+server.Name, server.Name+".app")}, []string{"80"}
		q["dst"][0] = "service/app/" + server.Name
	case 3:
		q["dst"], q["port"] = []string{"pod/" + server.String()}, []string{x.of("8080", "7000")}
	case 4:
		q["dst"], q["port"] = []string{server.Addr("tcp"+q.Get("family"), 0).Addr().String()}, []string{x.of("8080", "7000")}
		if server != x.servers[2] && x.dice.IntN(4) == 0 { // which is in the mesh at all times
			q.Set("port", "15001")
		}
	case 5:
		q["dst"], q["port"] = []string{x.of("service/", "pod/") + x.plain.String()}, []string{"8080"}
		if strings.HasPrefix(q.Get("dst"), "service") {
			q.Set("port", "80")
		}
	}
	return from, q
}

// connect makes the connection that was explained. It ends in order, if it is not refused.
func (a *attempted) connect(t *testing.T) {
	at := a.told.Destination.Address
	local := netip.AddrPortFrom(a.from.IPv4, a.port)
	if at.Addr().Is6() {
		local = netip.AddrPortFrom(a.from.IPv6, a.port)
	}
	a.local = local.String()
	c, err := a.from.Dial(t.Context(), "tcp", at.String(), DialOptions{Local: a.local})
	if a.err = err; err != nil {
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(c, "x\n")
	_ = c.(*net.TCPConn).CloseWrite() // what came of it tells the read
	var b []byte
	if b, a.err = io.ReadAll(c); a.err == nil && !strings.HasPrefix(string(b), "peer ") {
		a.err = fmt.Errorf("answer %q", b)
	}
}

// TestExplainAgreesWithReality makes connections under random policies and topologies, and wants of each what was told.
func TestExplainAgreesWithReality(t *testing.T) {
	testutil.Privileged(t)
	x := newExplained(t)
	const least, each, deadline = 2000, 120, 4 * time.Minute // another mesh takes its time, connections are soon made
	kinds, total, moved, started := map[string]int{}, 0, 0, time.Now()
	for total < scale(least) && time.Since(started) < deadline && !t.Failed() {
		x.change(t)
		still := x.known(t)
		logs := map[*Node]*evidence{x.Node("a"): witness(t, x.Node("a")), x.Node("b"): witness(t, x.Node("b"))}
		var all []*attempted
		for range each {
			from, q := x.query()
			x.port++
			all = append(all, &attempted{from: from, query: q, port: x.port})
		}
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := i; j < len(all); j += 8 {
					a := all[j]
					a.told = x.ask(t, a.from.Node, a.query)
					if a.told != nil && a.told.Verdict != explain.Waits { // these are slow, and tested by themselves
						a.connect(t)
					}
				}
			})
		}
		wg.Wait()
		if x.known(t) != still {
			moved++ // what was told and what was done may rightly differ
			continue
		}
		var mu sync.Mutex
		for _, a := range all {
			if a.told == nil || a.told.Verdict == explain.Waits {
				continue
			}
			wg.Go(func() {
				kind := x.check(t, a, logs)
				mu.Lock()
				defer mu.Unlock()
				kinds[kind]++
				total++
			})
		}
		wg.Wait()
	}
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		t.Logf("%5d %s", kinds[k], k)
	}
	t.Logf("%d connections in %d rounds, %v; %d rounds in which the mesh moved", total, x.round, time.Since(started).Round(time.Second), moved)
	if total < scale(least) && !t.Failed() {
		t.Errorf("compared %d connections in %v, want %d", total, deadline, scale(least))
	}
	if moved > x.round/2 {
		t.Errorf("the mesh moved by itself in %d of %d rounds", moved, x.round)
	}
	if len(kinds) < min(8, total/20) {
		t.Errorf("only %d kinds of outcome", len(kinds))
	}
	x.endpoints(t)
	x.waits(t)
	x.kernel(t)
}

// check compares one connection with what was told of it, and says which kind it was.
func (x *explained) check(t *testing.T, a *attempted, logs map[*Node]*evidence) string {
	t.Helper()
	o := a.outcome(t, logs)
	if o == nil {
		return "none"
	}
	name := fmt.Sprintf("%s -> %s:%s (IPv%s)", a.from, a.query.Get("dst"), a.query.Get("port"), a.query.Get("family"))
	if ok := a.err == nil; ok != (o.Verdict == explain.Allowed) {
		t.Errorf("%s: told %s %s (policy %q), but it ended with %v", name, o.Verdict, o.Reason, o.Policy, a.err)
	}
	return fmt.Sprintf("captured %-5v %s %s", o.Capture.Captured, o.Verdict, o.Reason)
}

// outcome finds among those told the one that happened, by what the logs of both ends say, and compares it with that.
func (a *attempted) outcome(t *testing.T, logs map[*Node]*evidence) *explain.Outcome {
	t.Helper()
	all := a.told.Outcomes
	if len(all) == 0 {
		t.Errorf("nothing was told: %+v", a.told)
		return nil
	}
	mute := func(o explain.Outcome) bool { return o.Client == nil && o.Server == nil }
	if !slices.ContainsFunc(all, func(o explain.Outcome) bool { return !mute(o) }) { // nobody logs it
		fits := slices.IndexFunc(all, func(o explain.Outcome) bool { return (o.Verdict == explain.Allowed) == (a.err == nil) })
		return &all[max(fits, 0)]
	}
	patience := told
	if i := slices.IndexFunc(all, mute); i >= 0 {
		patience = time.Second // it may have gone where nobody logs it
	}
	var client, server fields
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for i := range all {
			o := &all[i]
			if client, server = a.lines(o, logs); mute(*o) || o.Client != nil && client == nil || o.Server != nil && server == nil {
				continue
			}
			if happened(o, client, server) {
				return o
			}
		}
	}
	if i := slices.IndexFunc(all, mute); i >= 0 && client == nil && server == nil {
		return &all[i]
	}
	text, _ := json.MarshalIndent(all, "", "  ")
	t.Errorf("%s from %s ended with %v; its client's log says %v, its server's %v; nothing of the like was told:\n%s", a.from, a.local, a.err, client, server, text)
	return nil
}

// fields are those of a line of an access log.
type fields map[string]string

// lines are those of both ends, nil while there are none.
func (a *attempted) lines(o *explain.Outcome, logs map[*Node]*evidence) (client, server fields) {
	ask := "src.addr=" + a.local
	if o.Client != nil {
		if l := logs[a.from.Node].lines(ask, "direction=outbound"); len(l) > 0 {
			client = fieldsOf(l[0])
			ask = "trace_id=" + client["trace_id"]
		}
		if client["trace_id"] == "" {
			return client, nil
		}
	}
	for _, e := range logs {
		if l := e.lines(ask, "direction=inbound"); len(l) > 0 {
			server = fieldsOf(l[0])
		}
	}
	return client, server
}

func fieldsOf(line string) fields {
	out := fields{}
	for _, f := range strings.Fields(line) {
		if k, v, ok := strings.Cut(f, "="); ok {
			out[k] = v
		}
	}
	return out
}

// happened reports whether the lines are what was told.
func happened(o *explain.Outcome, client, server fields) bool {
	if c := o.Client; c != nil {
		if client["reason"] != c.Logged.String() || client["dst.hbone_addr"] != c.Authority || c.Upstream != "" && client["dst.addr"] != c.Upstream {
			return false
		}
	}
	if s := o.Server; s != nil {
		policy := ""
		if o.Verdict != explain.Allowed {
			policy = o.Policy
		}
		return server["reason"] == s.Reason.String() && server["policy"] == policy && (s.Protocol == "HBONE" || server["dst.addr"] == o.Target)
	}
	return true
}

// endpoints connects to a service so often that each endpoint gets its turn: these are the ones that were told.
func (x *explained) endpoints(t *testing.T) {
	for i := range 3 {
		x.Remove("AuthorizationPolicy", "app", fmt.Sprintf("guard%d", i))
	}
	x.Remove("AuthorizationPolicy", mesh.DefaultRootNamespace, "everywhere")
	x.Remove("PeerAuthentication", "app", "mode")
	client := x.clients[0]
	for _, ready := range [][]bool{{true, true, true}, {true, false, true}, {false, true, false}} {
		for i, p := range x.servers {
			p.SetReady(ready[i])
		}
		q := url.Values{"src": {client.String()}, "dst": {"mix"}, "port": {"80"}}
		var want []string
		testutil.Eventually(t, told, "the endpoints are as they were made", func() bool {
			want = nil
			for _, e := range x.ask(t, client.Node, q).Endpoints {
				if e.Chosen {
					want = append(want, e.Target)
				}
			}
			slices.Sort(want)
			var made []string
			for i, p := range x.servers {
				if ready[i] {
					made = append(made, netip.AddrPortFrom(p.IPv4, 8080).String())
				}
			}
			slices.Sort(made)
			return reflect.DeepEqual(want, made)
		})
		log := witness(t, client.Node)
		at := x.ask(t, client.Node, q).Destination.Address.String()
		const tries = 60
		for range tries {
			if _, _, err := talk(t, client, "tcp", at, "x"); err != nil {
				t.Error(err)
			}
		}
		var lines []string
		testutil.Eventually(t, told, "all are logged", func() bool {
			lines = log.lines("src.workload=client", "direction=outbound", "dst.service=mix.app.svc.cluster.local")
			return len(lines) == tries
		})
		got := map[string]bool{}
		for _, l := range lines {
			f := fieldsOf(l)
			target := f["dst.hbone_addr"]
			if target == "" {
				target = f["dst.addr"]
			}
			got[target] = true
		}
		if have := slices.Sorted(maps.Keys(got)); !slices.Equal(have, want) {
			t.Errorf("endpoints %v were chosen, told were %v", have, want)
		}
	}
}

// waits: an address of the cluster that nobody explains is waited for, then refused.
func (x *explained) waits(t *testing.T) {
	client := x.clients[0]
	nobody := client.IPv4.As4()
	nobody[3] = 250
	q := url.Values{"src": {client.String()}, "dst": {netip.AddrFrom4(nobody).String()}, "port": {"80"}}
	a := &attempted{from: client, told: x.ask(t, client.Node, q), port: firstPort}
	if a.told == nil || a.told.Verdict != explain.Waits {
		t.Fatalf("told %+v", a.told)
	}
	log := witness(t, client.Node)
	started := time.Now()
	a.connect(t)
	if took := time.Since(started); !isReset(a.err) || took < heldFor-time.Second {
		t.Errorf("ended with %v after %v", a.err, took)
	}
	log.ended("source", a.told.Reason.String(), by(a.local, client))
}

// kernel: what the kernel programs refuse or leave alone.
func (x *explained) kernel(t *testing.T) {
	client := x.clients[0]
	for _, port := range []uint16{15001, 15006, 15008, 15053, 8080} {
		q := url.Values{"src": {client.String()}, "dst": {client.IPv4.String()}, "port": {fmt.Sprint(port)}}
		told, log := x.ask(t, client.Node, q), witness(t, client.Node)
		if told == nil {
			continue
		}
		_, _, err := end(t, client, client.Addr("tcp4", port).String())
		want := explain.Allowed // nobody listens at 8080, which is the application's affair
		if errors.Is(err, syscall.EPERM) {
			want = explain.Refused
		}
		if told.Verdict != want {
			t.Errorf("port %d: told %s %s, ended with %v", port, told.Verdict, told.Reason, err)
		}
		log.counted(told.Reason.String())
	}
}

// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/e2e/testapp/answer"
)

// heldFor is how long the mesh waits for what it is not sure of.
const heldFor = 5 * time.Second

// refused wants the pod to be refused from soon on, over both families, at once, with the reason in the server's access
// log and metrics, and nothing to reach the application.
func (b *border) refused(t *testing.T, p, server *Pod, reason string, parts ...string) {
	t.Helper()
	p, server = p.In(t), server.In(t)
	Eventually(t, told, fmt.Sprintf("%s is refused by %s", p, server), func() string {
		if a := p.Talk("tcp4", server.Addr("tcp4", EchoPort).String(), "try"); !a.IsReset() {
			return fmt.Sprintf("%+v", a)
		}
		return ""
	})
	for _, network := range []string{"tcp4", "tcp6"} {
		e := b.Witness(t, server.Node)
		line := fmt.Sprintf("refuse-%s-%s-%d", reason, network, time.Now().UnixNano())
		a := p.Talk(network, server.Addr(network, EchoPort).String(), line)
		if !a.IsReset() || a.Took > heldFor-time.Second {
			t.Errorf("%s, %s: got %+v, want a reset at once", p, network, a)
		}
		e.Ended("destination", reason, append(parts, "src.workload="+p.Name, "dst.workload="+server.Name, "bytes_sent=0", "bytes_recv=0")...)
		if h := server.HeardLine(line); h != nil {
			t.Errorf("the application heard %+v", h)
		}
	}
}

// lets wants the pod to get through, from soon on.
func (b *border) lets(t *testing.T, p, server *Pod) {
	t.Helper()
	Eventually(t, told, fmt.Sprintf("%s gets through to %s", p, server), func() string {
		if a := p.In(t).Talk("tcp4", server.Addr("tcp4", EchoPort).String(), "try"); !a.OK() {
			return fmt.Sprintf("%+v", a)
		}
		return ""
	})
}

// TestStrict refuses plaintext from outside the mesh, and takes what is in it.
func TestStrict(t *testing.T) {
	b := newBorder(t, Shared(t))
	b.lets(t, b.outsider, b.server)
	b.ns.Strict(true)
	b.refused(t, b.outsider, b.server, "STRICT_MTLS")
	b.lets(t, b.client, b.server)
	b.ns.Strict(false)
	b.lets(t, b.outsider, b.server)
}

// TestAuthorization lets in and refuses by identity, and a change ends what it no longer allows.
func TestAuthorization(t *testing.T) {
	m := Shared(t)
	nodes := m.Nodes()
	b := &border{Mesh: m, ns: m.Namespace(t, "guarded", Enrolled())}
	back := m.Namespace(t, "back", Enrolled())
	caller := App{Name: "caller", Node: nodes[0]}
	back.Create(caller)
	pods := b.ns.Deploy(App{Name: "client", Node: nodes[0]}, App{Name: "other", Node: nodes[0]}, App{Name: "server", Node: nodes[1]})
	client, other, server := pods[0], pods[1], pods[2]
	policy := func(spec string, args ...any) {
		b.ns.Apply("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: guard}\nspec: %s\n", fmt.Sprintf(spec, args...))
	}
	guard := "policy=" + b.ns.Name + "/guard"
	held := client.Load("-every", "20ms", fmt.Sprintf("hold://%s", server.Addr("tcp4", EchoPort)))
	callerPod := back.Wait(caller)[0]
	t.Run("ALLOW by principal", func(t *testing.T) {
		policy(`{selector: {matchLabels: {app: server}}, rules: [{from: [{source: {principals: [cluster.local/ns/%s/sa/client]}}]}]}`, b.ns.Name)
		b.refused(t, other, server, "POLICY_NO_ALLOW", guard)
		b.refused(t, callerPod, server, "POLICY_NO_ALLOW", guard)
		b.lets(t, client, server)
	})
	t.Run("DENY by namespace", func(t *testing.T) {
		policy(`{action: DENY, rules: [{from: [{source: {namespaces: [%s]}}]}]}`, back.Name)
		b.refused(t, callerPod, server, "POLICY_DENY", guard)
		b.lets(t, other, server)
	})
	if l := held.Stop(); l.Failed > 0 || l.OK == 0 {
		t.Errorf("a connection that every policy allowed: %+v", l)
	}
	t.Run("a change ends what it no longer allows", func(t *testing.T) {
		held := other.In(t).Load("-every", "20ms", fmt.Sprintf("hold://%s", server.Addr("tcp4", EchoPort)))
		e := m.Witness(t, server.Node)
		Eventually(t, told, "the connection is there", func() string {
			for _, h := range server.Heard() {
				if h.End == "" && h.Port == EchoPort {
					return ""
				}
			}
			return "none lives"
		})
		policy(`{action: DENY, rules: [{from: [{source: {serviceAccounts: [other]}}]}]}`)
		e.Ended("destination", "POLICY_CHANGED", "src.workload="+other.Name, "dst.workload="+server.Name, guard)
		if l := held.Wait(); l.Lost != 1 || l.Errors[answer.Reset] != 1 {
			t.Errorf("the client saw %+v, want one reset", l)
		}
	})
}

// TestUnsureIsRefused holds what the mesh is not sure of for 5 s, unread, and then refuses it, each with its own word: an
// address that nobody knows, a pod that is to be captured and can't be, and plaintext that claims to come from a captured
// pod.
func TestUnsureIsRefused(t *testing.T) {
	m := Shared(t)
	nodes := m.Nodes()
	ns, out, late := m.Namespace(t, "unsure", Enrolled()), m.Namespace(t, "thieves"), m.Namespace(t, "late")
	thief, holder := App{Name: "thief", Node: nodes[1]}, App{Name: "holder", Node: nodes[1], Serve: []string{"echo=:7000", "sink=:15008"}}
	out.Create(thief)
	late.Create(holder)
	pods := ns.Deploy(App{Name: "victim", Node: nodes[0]}, App{Name: "client", Node: nodes[0]}, App{Name: "server", Node: nodes[1]})
	victim, client, server := pods[0], pods[1], pods[2]
	steal(t, out.Wait(thief)[0], victim)
	// It was there before the mesh, and holds a port that ztunnel needs.
	held := late.Wait(holder)[0]
	late.Enrol(true)
	Eventually(t, told, "the agent says that it can't capture "+held.String(), func() string {
		if word := held.Captured(); word == "" || word == "true" {
			return fmt.Sprintf("it says %q", word)
		}
		return ""
	})
	// The last address of the node's range: pods are given them from the first on.
	ghost := map[string]netip.AddrPort{"tcp4": last(t, server.IPv4, 24), "tcp6": last(t, server.IPv6, 64)}

	for _, network := range []string{"tcp4", "tcp6"} {
		t.Run("plaintext from a captured pod's address "+network, func(t *testing.T) {
			t.Parallel()
			e := m.Witness(t, server.Node)
			line := "stolen-" + network
			thief := out.In(t).Pods("app=thief")[0]
			a := thief.Talk(network, server.Addr(network, EchoPort).String(), line, "-from", victim.Addr(network, 0).Addr().String(), "-timeout", "20s")
			heldThenReset(t, a)
			e.Ended("destination", "PLAINTEXT_FROM_MESH", "src.workload="+victim.Name, "dst.workload="+server.Name, "bytes_sent=0", "bytes_recv=0")
			if h := server.In(t).HeardLine(line); h != nil {
				t.Errorf("the application heard %+v", h)
			}
		})
		t.Run("a pod that can't be captured "+network, func(t *testing.T) {
			t.Parallel()
			e := m.Witness(t, client.Node)
			line := "not-captured-" + network
			heldThenReset(t, client.In(t).Talk(network, held.Addr(network, EchoPort).String(), line, "-timeout", "20s"))
			e.Ended("source", "DESTINATION_NOT_CAPTURED", "src.workload="+client.Name, "dst.workload="+held.Name, "bytes_sent=0", "bytes_recv=0")
			if h := held.In(t).HeardLine(line); h != nil {
				t.Errorf("the application heard %+v", h)
			}
		})
		t.Run("an address that nobody knows "+network, func(t *testing.T) {
			t.Parallel()
			e := m.Witness(t, client.Node)
			heldThenReset(t, client.In(t).Talk(network, ghost[network].String(), "x", "-timeout", "20s"))
			e.Ended("source", "DESTINATION_UNKNOWN", "src.workload="+client.Name, fmt.Sprintf("dst.addr=%s", ghost[network]))
		})
	}
}

func heldThenReset(t *testing.T, a answer.Talk) {
	t.Helper()
	if !a.IsReset() || a.Took < heldFor-time.Second || a.Took > heldFor+5*time.Second {
		t.Errorf("got %+v, want a reset after about %v", a, heldFor)
	}
}

// steal lets a pod have another's addresses, whose node is another: its own node sends them to it from now on.
func steal(t *testing.T, thief, victim *Pod) {
	t.Helper()
	p, err := thief.process()
	if err != nil {
		t.Fatal(err)
	}
	for network, bits := range map[string]int{"tcp4": 32, "tcp6": 128} {
		prefix := netip.PrefixFrom(victim.Addr(network, 0).Addr(), bits).String()
		add := []string{"-t", strconv.Itoa(p.PID), "-n", "ip", "addr", "add", prefix, "dev", "eth0"}
		if network == "tcp6" {
			add = append(add, "nodad")
		}
		if out, err := exec.Command("nsenter", add...).CombinedOutput(); err != nil {
			t.Fatalf("give %s to %s: %v: %s", prefix, thief, err, out)
		}
		if _, err := thief.mesh.NodeShell(t.Context(), thief.Node, "ip", "route", "add", prefix, "dev", "cni0"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_, _ = thief.mesh.NodeShell(context.Background(), thief.Node, "ip", "route", "del", prefix, "dev", "cni0")
		})
	}
}

// last is the last address but one of the prefix in which a lies, with a port.
func last(t *testing.T, a netip.Addr, bits int) netip.AddrPort {
	t.Helper()
	b := a.AsSlice()
	for i := bits / 8; i < len(b); i++ {
		b[i] = 0xff
	}
	b[len(b)-1] = 0xfe
	out, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(out, EchoPort)
}

// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/mesh/manifests"
	"github.com/warren-mesh/warren/tests/testutil"
)

func (m *Mesh) meshConfig(spec string) {
	m.Apply("apiVersion: warren.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec: " + spec + "\n")
}

// stands waits until a condition of the object is so, with the parts in its message.
func (m *Mesh) stands(t *testing.T, object, condition string, status bool, parts ...string) {
	t.Helper()
	testutil.Eventually(t, told, fmt.Sprintf("%s: %s is %v", object, condition, status), func() bool {
		all, err := manifests.ReadConditions(m.Manifests())
		c, ok := all[object][condition]
		return err == nil && ok && c.Status == status && (len(parts) == 0 || containsAny(c.Message, parts...))
	})
}

// TestMeshConfigStrict turns STRICT on for the mesh: it takes effect at once, below every PeerAuthentication, a wrong
// MeshConfig changes nothing, and what is promised holds from the first moment of every restart.
func TestMeshConfigStrict(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	outsider := s.Node("b").Pod("outsider")
	heard := count(t, s.near, 7000)
	address := s.near.Addr("tcp4", 7000).String()
	try := func() error { _, _, err := end(t, outsider, address); return err }
	refused := func(t *testing.T) {
		t.Helper()
		before := heard.Load()
		a := witness(t, s.near.Node)
		local, took, err := end(t, outsider, address)
		if !isReset(err) || took > heldFor-time.Second || heard.Load() != before {
			t.Errorf("the outsider saw %v after %v, the application accepted %d; want a reset at once", err, took, heard.Load()-before)
		}
		line := a.ended("destination", "STRICT_MTLS", by(local, outsider), "dst.workload=near", "bytes_recv=0", "policy=warren-system/"+mesh.MeshConfigStrict)
		if want := "MeshConfig STRICT: the peer has no mesh identity"; !strings.Contains(line, want) {
			t.Errorf("the access log lacks %q: %s", want, line)
		}
		if _, _, err := talk(t, s.client, "tcp4", s.near.Addr("tcp4", 8080).String(), "x"); err != nil {
			t.Errorf("a client of the mesh: %v", err)
		}
	}
	if err := try(); err != nil {
		t.Fatalf("without STRICT: %v", err)
	}
	live := openEcho(t, s.client, "tcp4", "far:80")
	defer live.Close()
	t.Run("live", func(t *testing.T) {
		s.meshConfig("{mtls: {mode: STRICT}}")
		testutil.Eventually(t, told, "STRICT has arrived", func() bool { return isReset(try()) })
		refused(t)
		s.stands(t, "MeshConfig default", kube.ConditionApplied, true)
	})
	t.Run("a PeerAuthentication says otherwise", func(t *testing.T) {
		s.Permissive("app")
		testutil.Eventually(t, told, "the namespace is permissive", func() bool { return try() == nil })
		s.Remove("PeerAuthentication", "app", "default")
		testutil.Eventually(t, told, "the mesh's mode holds again", func() bool { return isReset(try()) })
	})
	t.Run("a wrong one changes nothing", func(t *testing.T) {
		s.meshConfig("{mtls: {mode: PERMISSIVE}, drain: 1h}")
		s.stands(t, "MeshConfig default", kube.ConditionAccepted, false, "spec.drain")
		s.stands(t, "MeshConfig default", kube.ConditionApplied, false, "stays in force")
		refused(t)
	})
	if err := ping(live, "still here"); err != nil {
		t.Errorf("a connection of before: %v", err)
	}
	t.Run("restarted", func(t *testing.T) {
		// The wrong one stands, and nobody who starts now has seen a good one.
		s.meshConfig("{mtls: {mode: STRICT}, drain: 1h}")
		before := heard.Load()
		for _, n := range s.Nodes() {
			for _, p := range []*Process{n.System.Agent, n.System.Ztunnel} {
				if _, err := p.KillChild(); err != nil {
					t.Fatal(err)
				}
			}
		}
		for began := time.Now(); time.Since(began) < time.Second; {
			_ = try()
		}
		readyAgain(t, s, 20*time.Second)
		if n := heard.Load() - before; n != 0 {
			t.Errorf("the application accepted %d plaintext connections over the restart", n)
		}
		refused(t)
		s.stands(t, "MeshConfig default", kube.ConditionAccepted, false, "spec.drain")
	})
	t.Run("removed", func(t *testing.T) {
		s.Remove("MeshConfig", "", "default")
		testutil.Eventually(t, told, "STRICT is gone", func() bool { return try() == nil })
		testutil.Eventually(t, told, "the conditions are gone", func() bool {
			all, err := manifests.ReadConditions(s.Manifests())
			return err == nil && len(all["MeshConfig default"]) == 0
		})
	})
}

// TestExceptions come and go while everything runs: the MeshConfig's for all pods, a pod's annotation for its own. The
// kernel lets such connections pass, and the far ztunnel takes them for what they are.
func TestExceptions(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{})
	other := s.Node("a").Pod("other", In("app"))
	s.WaitCaptured(other, "true")
	// Plaintext of pods captured only just now is let in for 5 s anyhow: the test would show nothing.
	time.Sleep(heldFor)
	direct := func(p *Pod, network string) bool {
		b, a := witness(t, s.far.Node), witness(t, p.Node)
		_, _, err := talk(t, p, network, s.far.Addr(network, 8080).String(), "x")
		if err != nil {
			t.Errorf("%s: %v", p, err)
			return false
		}
		reason := "TUNNEL"
		if a.grown("EXCEPTED") > 0 {
			reason = "INBOUND_PLAINTEXT"
		}
		b.ended("destination", reason, "src.workload="+p.Name, "dst.workload=far")
		return reason != "TUNNEL"
	}
	becomes := func(p *Pod, want bool) {
		t.Helper()
		for _, network := range []string{"tcp4", "tcp6"} {
			testutil.Eventually(t, told, fmt.Sprintf("%s reaches far directly over %s: %v", p, network, want), func() bool { return direct(p, network) == want })
		}
	}
	becomes(s.client, false)
	cidrs := fmt.Sprintf("%s/32, %s/128", s.far.IPv4, s.far.IPv6)

	s.meshConfig("{exceptions: [" + cidrs + "]}")
	becomes(s.client, true)
	becomes(other, true)
	s.meshConfig("{exceptions: [" + cidrs + ", all]}")
	s.stands(t, "MeshConfig default", kube.ConditionAccepted, false, "spec.exceptions[2]")
	becomes(s.client, true)
	s.meshConfig("{}")
	becomes(s.client, false)
	becomes(other, false)

	annotate := func(value string) {
		s.client.Change(func(o *corev1.Pod) {
			if o.Annotations == nil {
				o.Annotations = map[string]string{}
			}
			o.Annotations[kube.KeyExcept] = value
		})
	}
	annotate(cidrs)
	becomes(s.client, true)
	becomes(other, false)
	for _, n := range s.Nodes() { // what the kernel was told outlasts those who told it
		for _, p := range []*Process{n.System.Agent, n.System.Broker} {
			if _, err := p.KillChild(); err != nil {
				t.Fatal(err)
			}
		}
	}
	readyAgain(t, s, 20*time.Second)
	becomes(s.client, true)
	annotate(cidrs + ", all")
	s.stands(t, "Pod app/client", kube.ConditionAccepted, true, "annotations[warren.dev/except][2]")
	becomes(s.client, false)
	annotate(cidrs)
	becomes(s.client, true)
	s.client.Change(func(o *corev1.Pod) { delete(o.Annotations, kube.KeyExcept) })
	becomes(s.client, false)
	becomes(other, false)
}

// TestMeshConfigDrain: the deadline is that of the MeshConfig, whatever the flag says.
func TestMeshConfigDrain(t *testing.T) {
	testutil.Privileged(t)
	s := newSpine(t, Options{ZtunnelFlags: []string{"--drain", "60s"}})
	s.meshConfig("{drain: 1s}")
	s.stands(t, "MeshConfig default", kube.ConditionApplied, true)
	kept := openEcho(t, s.client, "tcp4", "far:80")
	defer kept.Close()
	testutil.Eventually(t, told, "ztunnel has it", func() bool {
		body, _, err := s.far.Node.System.Ztunnel.Pod.Get("http://localhost:15000/config_dump")
		return err == nil && containsAny(body, `"drain":"1s"`, `"drain": "1s"`)
	})
	began := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- s.far.Node.System.Ztunnel.Stop(30 * time.Second) }()
	if err := ending(kept, 20*time.Second); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v, want a reset", err)
	}
	if took := time.Since(began); took < time.Second || took > 15*time.Second {
		t.Errorf("it was ended after %v, want about 1 s", took)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// TestMeshConfigDrainOfAPod: likewise when a pod leaves the mesh, for agent, broker and ztunnel alike.
func TestMeshConfigDrainOfAPod(t *testing.T) {
	testutil.Privileged(t)
	long := []string{"--drain", "60s"}
	s := newSpine(t, Options{AgentFlags: long, BrokerFlags: long, ZtunnelFlags: long})
	s.meshConfig("{drain: 2s}")
	kept := openEcho(t, s.client, "tcp4", "far:80")
	defer kept.Close()
	for _, n := range s.Nodes() {
		testutil.Eventually(t, told, "ztunnel of node "+n.Name+" has it", func() bool {
			body, _, err := n.System.Ztunnel.Pod.Get("http://localhost:15000/config_dump")
			return err == nil && containsAny(body, `"drain":"2s"`, `"drain": "2s"`)
		})
	}
	began := time.Now()
	s.Unenrol("app")
	if err := ending(kept, 30*time.Second); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v, want a reset", err)
	}
	if took := time.Since(began); took < 2*time.Second || took > 20*time.Second {
		t.Errorf("it was ended after %v, want about 2 s", took)
	}
}

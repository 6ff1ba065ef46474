// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/warren-mesh/warren/mesh/cni"
)

const pluginEnv = "WARREN_CNI_TEST_PLUGIN"

// TestMain lets the test binary be the plugin.
func TestMain(m *testing.M) {
	if os.Getenv(pluginEnv) != "" {
		os.Exit(Main("warren-cni test"))
	}
	os.Exit(m.Run())
}

// prev has what no plugin knows: it must come out as it went in.
const prev = `{"cniVersion":"1.0.0","interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/x","mtu":1500}],"ips":[{"interface":1,"address":"10.1.2.3/24","gateway":"10.1.2.1"},{"interface":1,"address":"fd00::3/64"}],"dns":{"search":["a.b"]},"x-vendor":{"n":1.50,"big":12345678901234567890}}`

// node is what the plugin sees of one.
type node struct {
	t     *testing.T
	dir   string
	mu    sync.Mutex
	asked []cni.Request
	netns int // namespaces that came along
}

func newNode(t *testing.T) *node {
	dir, err := os.MkdirTemp("", "wp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &node{t: t, dir: dir}
}

// agent answers with reply; without a result it hangs up, and with hold it never answers.
func (n *node) agent(reply cni.Reply, hold bool) {
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: filepath.Join(n.dir, "agent-1-cni.sock")})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { l.Close() })
	reply.Version = cni.Version
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var r cni.Request
				files, err := cni.Receive(c, &r)
				if err != nil {
					return
				}
				cni.CloseAll(files)
				n.mu.Lock()
				n.asked, n.netns = append(n.asked, r), n.netns+len(files)
				n.mu.Unlock()
				if hold {
					_, _ = c.Read(make([]byte, 1))
				} else if reply.Result != "" {
					_ = cni.Send(c, reply, nil)
				}
			}()
		}
	}()
}

func (n *node) cache() {
	err := cni.WriteNamespaces(n.dir, cni.Namespaces{Enrolled: []string{"shop"}, Excluded: []string{"infra"}, Outside: []string{"other"}})
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) config(prev string) string {
	s := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"pods","type":"warren-cni","runDir":%q,"stateDir":%q,"deadline":"600ms","excludedNamespaces":["kube-system"]`, n.dir, n.dir)
	if prev != "" {
		s += `,"prevResult":` + prev
	}
	return s + "}"
}

func (n *node) questions() []cni.Request {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.asked)
}

type result struct {
	code   int
	stdout string
	msg    string // of the error
	errno  int
	took   time.Duration
}

func (n *node) run(command, namespace, stdin string, env ...string) result {
	n.t.Helper()
	args := "IgnoreUnknown=1;K8S_POD_NAMESPACE=" + namespace + ";K8S_POD_NAME=db-0;K8S_POD_UID=u-1"
	if namespace == "" {
		args = ""
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append([]string{pluginEnv + "=1", "CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_NETNS=/proc/self/ns/net", "CNI_IFNAME=eth0", "CNI_PATH=/x", "CNI_ARGS=" + args,
		"CNI_NETNS_OVERRIDE=1", "GORACE=atexit_sleep_ms=0"}, env...)
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &stderr
	started := time.Now()
	_ = cmd.Run()
	r := result{code: cmd.ProcessState.ExitCode(), stdout: out.String(), took: time.Since(started)}
	var e struct {
		Code int
		Msg  string
	}
	if r.code != 0 {
		if err := json.Unmarshal(out.Bytes(), &e); err != nil {
			n.t.Errorf("no CNI error: %q %q", out.String(), stderr.String())
		}
		r.msg, r.errno = e.Msg, e.Code
	}
	return r
}

func TestADDPassesTheResultOnAsItCame(t *testing.T) {
	n := newNode(t)
	n.agent(cni.Reply{Result: cni.Captured}, false)
	r := n.run("ADD", "shop", n.config(prev))
	if r.code != 0 || r.stdout != prev+"\n" {
		t.Errorf("%d\n%s\n%s", r.code, cmp.Diff(prev+"\n", r.stdout), r.msg)
	}
	if len(n.questions()) != 1 || n.netns != 1 {
		t.Fatalf("asked %+v with %d namespaces", n.questions(), n.netns)
	}
	q := n.questions()[0]
	if q.Op != cni.Add || q.Pod != (cni.Pod{Namespace: "shop", Name: "db-0", UID: "u-1"}) || q.Container != "c1" ||
		fmt.Sprint(q.Addresses) != "[10.1.2.3 fd00::3]" || q.WaitMillis < 1 || q.WaitMillis > 600 {
		t.Errorf("asked %+v", q)
	}
}

func TestADDByWhatTheAgentSays(t *testing.T) {
	for _, test := range []struct {
		name      string
		reply     cni.Reply
		hold      bool
		none      bool // no agent at all
		namespace string
		cached    bool
		want      string // parts of the error, by "|"; "": starts
	}{
		{name: "captured", reply: cni.Reply{Result: cni.Captured}, namespace: "shop"},
		{name: "outside", reply: cni.Reply{Result: cni.Outside, Reason: "NotEnrolled"}, namespace: "shop"},
		{name: "failed", reply: cni.Reply{Result: cni.Failed, Error: "no broker"}, namespace: "shop", want: "pod shop/db-0 not started: no broker|kubelet tries again"},
		{name: "failed, outside by the cache", reply: cni.Reply{Result: cni.Failed, Error: "no broker"}, namespace: "other", cached: true, want: "no broker"},
		{name: "no agent, nothing cached", none: true, namespace: "shop", want: "whether namespace shop is in the mesh is not known|no such file|did not answer within 600ms|warren-node"},
		{name: "no agent, enrolled", none: true, namespace: "shop", cached: true, want: "namespace shop is in the mesh, and warren-agent did not answer within 600ms|warren-node"},
		{name: "no agent, unknown", none: true, namespace: "new", cached: true, want: "whether namespace new is in the mesh is not known"},
		{name: "no agent, outside", none: true, namespace: "other", cached: true},
		{name: "no agent, excluded by the cache", none: true, namespace: "infra", cached: true},
		{name: "no agent, excluded by the configuration", none: true, namespace: "kube-system"},
		{name: "no agent, no pod", none: true, namespace: ""},
		{name: "hangs, enrolled", hold: true, namespace: "shop", cached: true, want: "did not answer within 600ms"},
		{name: "hangs, outside", hold: true, namespace: "other", cached: true},
		{name: "hangs up, enrolled", namespace: "shop", cached: true, want: "did not answer within 600ms"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			if !test.none {
				n.agent(test.reply, test.hold)
			}
			if test.cached {
				n.cache()
			}
			r := n.run("ADD", test.namespace, n.config(prev))
			if test.want == "" {
				if r.code != 0 || r.stdout != prev+"\n" {
					t.Errorf("%d %s", r.code, r.stdout)
				}
			} else {
				for _, part := range strings.Split(test.want, "|") {
					if r.code == 0 || !strings.Contains(r.msg, part) {
						t.Errorf("%d %q, want %q", r.code, r.msg, part)
					}
				}
				if r.errno != 11 {
					t.Errorf("code %d, want 11: try again later", r.errno)
				}
			}
			if r.took > 5*time.Second {
				t.Errorf("took %v", r.took)
			}
		})
	}
}

func TestADDRefusesWhatItIsNotFor(t *testing.T) {
	n := newNode(t)
	n.agent(cni.Reply{Result: cni.Captured}, false)
	for _, test := range []struct {
		name, stdin, want string
		env               []string
	}{
		{name: "not chained", stdin: n.config(""), want: "no prevResult"},
		{name: "no address", stdin: n.config(`{"cniVersion":"1.0.0"}`), want: "gives the pod no address"},
		{name: "only the host's", stdin: n.config(`{"cniVersion":"1.0.0","interfaces":[{"name":"veth"}],"ips":[{"interface":0,"address":"10.0.0.1/24"}]}`), want: "gives the pod no address"},
		{name: "no namespace", stdin: n.config(prev), env: []string{"CNI_NETNS=/gone"}, want: "open CNI_NETNS"},
		{name: "a wrong deadline", stdin: strings.Replace(n.config(prev), "600ms", "-1s", 1), want: "not positive"},
		{name: "a specification to come", stdin: strings.Replace(n.config(prev), `"cniVersion":"1.0.0"`, `"cniVersion":"7.0.0"`, 1), want: "7.0.0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := n.run("ADD", "shop", test.stdin, test.env...)
			if r.code == 0 || !strings.Contains(r.msg+r.stdout, test.want) {
				t.Errorf("%d %s", r.code, r.stdout)
			}
		})
	}
	if len(n.questions()) > 0 {
		t.Errorf("asked: %+v", n.questions())
	}
}

// A pod outside the mesh starts even where it could not be captured.
func TestADDOfOutsidePodsAsksForNothing(t *testing.T) {
	n := newNode(t)
	n.cache()
	for name, test := range map[string]struct{ prev, env string }{
		"no address":         {`{"cniVersion":"1.0.0","x":1}`, ""},
		"link-local only":    {`{"cniVersion":"1.0.0","ips":[{"address":"fe80::1/64"}]}`, ""},
		"an odd address":     {`{"cniVersion":"1.0.0","ips":[{"address":"127.0.0.1/8"}]}`, ""},
		"no namespace":       {prev, "CNI_NETNS=/gone"},
		"no namespace at it": {prev, "CNI_NETNS=" + n.dir},
	} {
		if r := n.run("ADD", "other", n.config(test.prev), test.env); r.code != 0 || r.stdout != test.prev+"\n" {
			t.Errorf("%s: %d %s", name, r.code, r.stdout)
		}
		if r := n.run("ADD", "shop", n.config(test.prev), test.env); r.code == 0 {
			t.Errorf("%s: a pod of the mesh started", name)
		}
	}
}

// TestADDOfOlderSpecifications: the primary network's file decides the version, and 0.3.1 is common.
func TestADDOfOlderSpecifications(t *testing.T) {
	for _, v := range append(cni.SpecVersions(), "") {
		n := newNode(t)
		n.agent(cni.Reply{Result: cni.Captured}, false)
		old := fmt.Sprintf(`{"cniVersion":%q,"ips":[{"version":"4","address":"10.1.2.3/24"}]}`, v)
		if v < "0.3" {
			old = fmt.Sprintf(`{"cniVersion":%q,"ip4":{"ip":"10.1.2.3/24"},"dns":{}}`, v)
		}
		r := n.run("ADD", "shop", strings.Replace(n.config(old), `"cniVersion":"1.0.0"`, fmt.Sprintf(`"cniVersion":%q`, v), 1))
		if r.code != 0 || r.stdout != old+"\n" || len(n.questions()) != 1 || fmt.Sprint(n.questions()[0].Addresses) != "[10.1.2.3]" {
			t.Errorf("%s: %d %s %+v", v, r.code, r.stdout, n.questions())
		}
	}
}

func TestDELAlwaysSucceeds(t *testing.T) {
	for name, prepare := range map[string]func(*node){
		"no agent":   func(*node) {},
		"agent":      func(n *node) { n.agent(cni.Reply{Result: cni.Done}, false) },
		"it hangs":   func(n *node) { n.agent(cni.Reply{}, true) },
		"it refuses": func(n *node) { n.agent(cni.Reply{Result: cni.Failed, Error: "x"}, false) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			prepare(n)
			for i, stdin := range []string{n.config(prev), n.config(""), "garbage", "", "{}", `{"cniVersion":"99.0"}`, strings.Repeat("[", 1<<20)} {
				for _, env := range []string{"", "CNI_NETNS=", "CNI_NETNS=/gone", "CNI_CONTAINERID=", "CNI_ARGS=;;=;K8S_POD_NAME=../x", "CNI_IFNAME="} {
					if i > 0 && env != "" || name == "it hangs" && i > 1 {
						continue
					}
					r := n.run("DEL", "shop", stdin, env)
					if r.code != 0 || r.stdout != "" || r.took > delWithin+3*time.Second {
						t.Errorf("%.40q %s: %d in %v: %s", stdin, env, r.code, r.took, r.stdout)
					}
				}
			}
		})
	}
	n := newNode(t)
	n.agent(cni.Reply{Result: cni.Done}, false)
	n.run("DEL", "shop", n.config(""))
	if len(n.questions()) != 1 || n.questions()[0].Op != cni.Del || n.questions()[0].Container != "c1" {
		t.Errorf("told the agent %+v", n.questions())
	}
}

func TestOtherCommands(t *testing.T) {
	n := newNode(t)
	if r := n.run("VERSION", "shop", `{"cniVersion":"1.0.0"}`); r.code != 0 || !strings.Contains(r.stdout, `"1.1.0"`) || !strings.Contains(r.stdout, `"0.3.1"`) {
		t.Errorf("VERSION: %d %s", r.code, r.stdout)
	}
	status := strings.Replace(n.config(""), `"cniVersion":"1.0.0"`, `"cniVersion":"1.1.0"`, 1)
	for _, c := range []string{"STATUS", "GC"} {
		if r := n.run(c, "", status); r.code != 0 {
			t.Errorf("%s with the agent away: %d %s", c, r.code, r.stdout)
		}
	}
	if r := n.run("CHECK", "shop", n.config(prev)); r.code != 0 {
		t.Errorf("CHECK with the agent away: %s", r.stdout)
	}
	n.agent(cni.Reply{Result: cni.Failed, Error: "it is not captured"}, false)
	if r := n.run("CHECK", "shop", n.config(prev)); r.code == 0 || !strings.Contains(r.msg, "it is not captured") {
		t.Errorf("CHECK: %d %s", r.code, r.stdout)
	}
}

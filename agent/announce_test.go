// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/cni"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/tests/testutil"
)

// rig is an agent with objects that a test sets and a broker that a test plays.
type rig struct {
	t   *testing.T
	dir string
	*Agent
	src *objects

	mu      sync.Mutex
	updates []broker.Capture // in order
	inodes  []uint64         // of the namespaces with them, 0 without
	deleted []string
	syncs   int
	answer  func(c broker.Capture, inode uint64) *broker.State // nil: none
}

func inodeOf(fd int) uint64 {
	var st syscall.Stat_t
	_ = syscall.Fstat(fd, &st)
	return st.Ino
}

// newRig starts an agent over a state directory, "" for a new one.
func newRig(t *testing.T, state string, pods ...kube.LocalPod) (*rig, context.CancelFunc) {
	t.Helper()
	src := &objects{pods: pods, changed: make(chan struct{})}
	r, stop := newRigOver(t, state, src)
	r.src = src
	return r, stop
}

func newRigOver(t *testing.T, state string, src Source) (*rig, context.CancelFunc) {
	t.Helper()
	return newRigAnswering(t, state, src, func(_ broker.Capture, inode uint64) *broker.State { return &broker.State{Captured: true, Netns: inode} })
}

func newRigAnswering(t *testing.T, state string, src Source, answer func(broker.Capture, uint64) *broker.State) (*rig, context.CancelFunc) {
	t.Helper()
	dir, err := os.MkdirTemp("", "wa")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if state == "" {
		state = filepath.Join(dir, "state")
	}
	l, err := broker.Listen(filepath.Join(dir, broker.SocketName("broker", "1", "")))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: dir, answer: answer}
	if r.Agent, err = New(Config{Node: "n", RunDir: dir, StateDir: state, Drain: time.Minute, Log: slog.New(slog.DiscardHandler)},
		src, &page{last: map[mesh.Name]string{}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.Agent.broker.Run(ctx) })
	wg.Go(func() { _ = r.Agent.reconcile(ctx) })
	wg.Go(func() { r.playBroker(ctx, l.AcceptUnix) })
	stop := func() { cancel(); l.Close(); wg.Wait() }
	t.Cleanup(stop)
	testutil.Eventually(t, 10*time.Second, "the agent has its broker", r.Agent.broker.Connected)
	return r, stop
}

func (r *rig) playBroker(ctx context.Context, accept func() (*net.UnixConn, error)) {
	uc, err := accept()
	if err != nil {
		return
	}
	c := broker.NewConn(uc)
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	for {
		m, fds, err := c.Recv()
		if err != nil {
			return
		}
		inode := uint64(0)
		if len(fds) == 1 {
			inode = inodeOf(fds[0])
		}
		broker.CloseFDs(fds)
		switch m.Type {
		case broker.TypeHello:
			_ = c.Send(broker.TypeHello, broker.Hello{Role: "broker"})
		case broker.TypeCaptureUpdate:
			var u broker.CaptureUpdate
			_ = m.Into(&u)
			r.mu.Lock()
			r.updates, r.inodes = append(r.updates, u.Capture), append(r.inodes, inode)
			s := r.answer(u.Capture, inode)
			r.mu.Unlock()
			if s != nil {
				s.UID, s.At = u.UID, time.Now()
				_ = c.Send(broker.TypeCaptureState, s)
			}
		case broker.TypeCaptureDelete:
			var d broker.CaptureDelete
			_ = m.Into(&d)
			r.mu.Lock()
			r.deleted = append(r.deleted, d.UID)
			r.mu.Unlock()
		case broker.TypeCaptureSync:
			r.mu.Lock()
			r.syncs++
			r.mu.Unlock()
		}
	}
}

// set replaces the objects.
func (r *rig) set(pods ...kube.LocalPod) {
	r.src.mu.Lock()
	r.src.pods = pods
	r.src.mu.Unlock()
	r.src.tell()
}

func (r *rig) synced() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.syncs > 0
}

func (r *rig) told() ([]broker.Capture, []uint64, []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]broker.Capture(nil), r.updates...), append([]uint64(nil), r.inodes...), append([]string(nil), r.deleted...)
}

func (r *rig) ask(q cni.Request, within time.Duration) cni.Reply {
	r.t.Helper()
	f, err := os.Open("/proc/self/ns/net")
	if err != nil {
		r.t.Fatal(err)
	}
	q.WaitMillis = within.Milliseconds()
	ctx, cancel := context.WithTimeout(r.t.Context(), within)
	defer cancel()
	return announcer{r.Agent}.Announce(ctx, q, f)
}

var (
	v4, v6 = netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::9")
	newPod = kube.LocalPod{UID: "u9", Namespace: "shop", Name: "db-0", ServiceAccount: "db", Enrolled: true}
)

func announcement() cni.Request {
	return cni.Request{Version: cni.Version, Op: cni.Add, Pod: cni.Pod{Namespace: "shop", Name: "db-0", UID: "u9"}, Container: "c1", Addresses: []netip.Addr{v4, v6}}
}

// The object that comes with the addresses says nothing new, whatever their order; other addresses are.
func TestAnnouncedPodAndItsObjectAreOneCapture(t *testing.T) {
	r, stop := newRig(t, "", newPod)
	if got := r.ask(announcement(), 5*time.Second); got.Result != cni.Captured {
		t.Fatalf("%+v", got)
	}
	f, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	updates, inodes, _ := r.told()
	if len(updates) != 1 || inodes[0] != inodeOf(int(f.Fd())) || updates[0].UID != "u9" || updates[0].ServiceAccount != "db" || len(updates[0].Addresses) != 2 {
		t.Fatalf("told the broker %+v with %v", updates, inodes)
	}
	kept := filepath.Join(r.cfg.StateDir, cni.SandboxesDir, "u9.json")
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("an agent started now would not know the pod: %v", err)
	}
	full := newPod
	full.Addresses = []netip.Addr{v6, v4}
	r.set(full)
	testutil.Eventually(t, 5*time.Second, "the object is taken over", func() bool { _, err := os.Stat(kept); return os.IsNotExist(err) })
	if updates, _, deleted := r.told(); len(updates) != 1 || len(deleted) != 0 {
		t.Errorf("captured again: %+v, deleted %v", updates, deleted)
	}
	full.Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.10")}
	r.set(full)
	testutil.Eventually(t, 5*time.Second, "other addresses are told", func() bool { updates, _, _ := r.told(); return len(updates) == 2 })
	stop()
}

// Another network of the same sandbox does not make its address the pod's.
func TestFurtherNetworksChangeNothing(t *testing.T) {
	r, _ := newRig(t, "", newPod)
	if got := r.ask(announcement(), 5*time.Second); got.Result != cni.Captured {
		t.Fatalf("%+v", got)
	}
	further := announcement()
	further.Addresses = []netip.Addr{netip.MustParseAddr("192.168.7.9")}
	if got := r.ask(further, 5*time.Second); got.Result != cni.Captured {
		t.Fatalf("%+v", got)
	}
	again := announcement()
	again.Container, again.Addresses = "c2", further.Addresses // a sandbox made anew, which is something else
	if got := r.ask(again, 5*time.Second); got.Result != cni.Captured {
		t.Fatalf("%+v", got)
	}
	if updates, _, _ := r.told(); len(updates) != 2 || updates[0].Addresses[0] != v4 || updates[1].Addresses[0] != again.Addresses[0] {
		t.Errorf("told the broker %+v", updates)
	}
}

// An agent that starts between the sandbox and the object's addresses goes on with what the one before was told.
func TestAnnouncedPodOutlastsTheAgent(t *testing.T) {
	r, stop := newRig(t, "", newPod)
	if got := r.ask(announcement(), 5*time.Second); got.Result != cni.Captured {
		t.Fatalf("%+v", got)
	}
	stop()
	r2, _ := newRig(t, r.cfg.StateDir, newPod)
	testutil.Eventually(t, 5*time.Second, "the next agent tells its broker", func() bool {
		updates, _, _ := r2.told()
		return len(updates) == 1 && len(updates[0].Addresses) == 2 && updates[0].Addresses[0] == v4
	})
}

func TestAnnouncedPodWaitsForItsObject(t *testing.T) {
	r, _ := newRig(t, "")
	time.AfterFunc(50*time.Millisecond, func() { r.set(newPod) })
	if got := r.ask(announcement(), 5*time.Second); got.Result != cni.Captured {
		t.Errorf("%+v", got)
	}
}

func TestWhatIsAnsweredInstead(t *testing.T) {
	unenrolled, unsaid, wrong, otherUID := newPod, newPod, newPod, newPod
	unenrolled.Enrolled, unenrolled.Reason = false, kube.OptedOut
	unsaid.Enrolled, unsaid.Reason = false, kube.NamespaceUnknown
	wrong.Enrolled, wrong.Reason = false, kube.EnrolmentUnreadable
	problem := func(object string) []kube.Problem {
		return []kube.Problem{{Object: object, Field: "metadata.labels[warren.dev/mesh]", Err: errors.New("no such value"), Partial: true}}
	}
	otherUID.UID = "u8"
	outside := announcement()
	outside.Pod.Namespace = "outside"
	noUID := announcement()
	noUID.Pod.UID = ""
	for _, test := range []struct {
		name   string
		pods   []kube.LocalPod
		wrong  []kube.Problem
		ask    cni.Request
		answer func(broker.Capture, uint64) *broker.State
		within time.Duration
		want   cni.Result
		text   string // in reason or error
	}{
		{name: "outside", pods: []kube.LocalPod{unenrolled}, want: cni.Outside, text: "OptedOut"},
		{name: "its namespace is not here", pods: []kube.LocalPod{unsaid}, want: cni.Failed, text: "namespace shop has not reached the agent"},
		{name: "its word is none", pods: []kube.LocalPod{wrong}, wrong: problem("Pod shop/db-0"), want: cni.Failed,
			text: "whether it is in the mesh can't be read: Pod shop/db-0: no such value"},
		{name: "its namespace's is none", pods: []kube.LocalPod{wrong}, wrong: problem("Namespace shop"), want: cni.Failed,
			text: "whether it is in the mesh can't be read: Namespace shop: no such value"},
		{name: "no object", want: cni.Failed, text: "its Pod object has not reached the agent"},
		{name: "no object, and the namespace is outside", ask: outside, within: 10 * time.Second, want: cni.Outside, text: "NoObjectYet"},
		{name: "an object of another uid", pods: []kube.LocalPod{otherUID}, want: cni.Failed, text: "has uid u8, the runtime says u9"},
		{name: "a runtime without uids", pods: []kube.LocalPod{newPod}, ask: noUID, within: 5 * time.Second, want: cni.Captured},
		{name: "the broker says nothing", pods: []kube.LocalPod{newPod}, want: cni.Failed, text: "the broker has not answered",
			answer: func(broker.Capture, uint64) *broker.State { return nil }},
		{name: "the broker can't", pods: []kube.LocalPod{newPod}, want: cni.Failed, text: "the broker says: no veth",
			answer: func(broker.Capture, uint64) *broker.State { return &broker.State{Reason: "no veth"} }},
		{name: "the broker holds another namespace", pods: []kube.LocalPod{newPod}, want: cni.Failed, text: "another network namespace",
			answer: func(broker.Capture, uint64) *broker.State { return &broker.State{Captured: true, Netns: 1} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, stop := newRig(t, "", test.pods...)
			r.src.mu.Lock()
			r.src.problems = test.wrong
			r.src.mu.Unlock()
			if test.answer != nil {
				r.mu.Lock()
				r.answer = test.answer
				r.mu.Unlock()
			}
			if test.ask.Op == "" {
				test.ask = announcement()
			}
			if test.within == 0 {
				test.within = 400 * time.Millisecond
			}
			got := r.ask(test.ask, test.within)
			if got.Result != test.want || !strings.Contains(got.Reason+got.Error, test.text) {
				t.Errorf("%+v, want %s %q", got, test.want, test.text)
			}
			if updates, _, _ := r.told(); test.want == cni.Failed && len(updates) > 0 {
				testutil.Eventually(t, 5*time.Second, "what did not start is taken back", func() bool { _, _, deleted := r.told(); return len(deleted) == 1 })
			}
			stop()
			if left, _ := os.ReadDir(filepath.Join(r.cfg.StateDir, cni.SandboxesDir)); test.want == cni.Failed && len(left) > 0 {
				t.Errorf("kept: %v", left)
			}
		})
	}
}

// DEL of an older sandbox, which may come late, leaves the newer one alone.
func TestEndedTakesBackItsOwnSandboxOnly(t *testing.T) {
	r, _ := newRig(t, "", newPod)
	if got := r.ask(announcement(), 5*time.Second); got.Result != cni.Captured {
		t.Fatalf("%+v", got)
	}
	end := cni.Request{Op: cni.Del, Pod: announcement().Pod, Container: "c0"}
	announcer{r.Agent}.Ended(t.Context(), end)
	if got := (announcer{r.Agent}).Check(t.Context(), end); got.Result != cni.Captured {
		t.Errorf("after the end of another sandbox: %+v", got)
	}
	end.Container = "c1"
	announcer{r.Agent}.Ended(t.Context(), end)
	testutil.Eventually(t, 5*time.Second, "the capture is taken back", func() bool { _, _, deleted := r.told(); return len(deleted) == 1 })
	// And the kubelet tries again.
	again := announcement()
	again.Container = "c2"
	if got := r.ask(again, 5*time.Second); got.Result != cni.Captured {
		t.Errorf("a new sandbox: %+v", got)
	}
}

func TestNamespacesAreCached(t *testing.T) {
	r, _ := newRig(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.cacheNamespaces(ctx) }()
	testutil.Eventually(t, 5*time.Second, "cached", func() bool {
		n, err := cni.ReadNamespaces(r.cfg.StateDir)
		return err == nil && n.Of("outside") == cni.NamespaceOutside
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

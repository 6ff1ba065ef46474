// SPDX-License-Identifier: Apache-2.0

package zds

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

func TestSnapshotThenChanges(t *testing.T) {
	a := startAgent(t, ServerConfig{})
	a.Set(workload("one"))
	a.Set(workload("two"))
	a.Synced()
	z := a.startZtunnel(t, ClientConfig{})
	z.wait(t, "one", "two")
	wantAcks(t, a.Server, map[string]string{"one": "", "two": ""})

	a.Set(workload("three"))
	z.wait(t, "one", "two", "three")
	wantAcks(t, a.Server, map[string]string{"three": ""})
	a.Delete("one")
	z.wait(t, "two", "three")
	if got := z.get("three"); got != workload("three") {
		t.Errorf("pod three arrived as %+v", got)
	}
}

func TestNothingIsPrunedBeforeTheListIsComplete(t *testing.T) {
	a := startAgent(t, ServerConfig{})
	a.Set(workload("one"))
	a.Set(workload("two"))
	a.Synced()
	z := a.startZtunnel(t, ClientConfig{})
	z.wait(t, "one", "two")
	a.stop()

	// The agent restarts, and learns of pod two only later.
	b := startAgent(t, ServerConfig{})
	z.redirect(b.path)
	b.Set(workload("three"))
	wantAcks(t, b.Server, map[string]string{"three": ""})
	if got, want := z.pods(), []string{"one", "three", "two"}; !slices.Equal(got, want) {
		t.Fatalf("before the list is complete: got %v, want %v", got, want)
	}
	b.Set(workload("two"))
	b.Synced()
	z.wait(t, "two", "three")
}

func TestRestartedZtunnelGetsTheSnapshotAgain(t *testing.T) {
	a := startAgent(t, ServerConfig{})
	for i := range 200 {
		a.Set(workload(fmt.Sprint(i)))
	}
	a.Synced()
	first := a.startZtunnel(t, ClientConfig{})
	first.wait(t, first.all(200)...)
	first.stop()
	a.waitConnections(t, 0)
	second := a.startZtunnel(t, ClientConfig{})
	second.wait(t, second.all(200)...)
}

func TestNewestGetsAddsAllGetDeletes(t *testing.T) {
	a := startAgent(t, ServerConfig{})
	a.Set(workload("one"))
	a.Set(workload("two"))
	a.Synced()
	old := a.startZtunnel(t, ClientConfig{})
	old.wait(t, "one", "two")
	young := a.startZtunnel(t, ClientConfig{})
	young.wait(t, "one", "two")

	a.Set(workload("three"))
	a.Delete("one")
	young.wait(t, "two", "three")
	old.wait(t, "two")

	// The newer one goes: the older one takes over what it missed.
	young.stop()
	old.wait(t, "two", "three")
}

// TestOlderOneKeepsItsPods has two ztunnels come to a new agent that does not know all pods yet: when an agent is replaced
// beside a ztunnel.
func TestOlderOneKeepsItsPods(t *testing.T) {
	a := startAgent(t, ServerConfig{})
	z := newZtunnel(a.path)
	z.client = NewClient(ClientConfig{})
	for _, uid := range []string{"one", "two", "gone"} { // from the agent before
		z.client.pods[uid], z.have[uid] = true, workload(uid)
	}
	z.run(t)
	a.waitConnections(t, 1)
	newest := a.startZtunnel(t, ClientConfig{})
	a.Set(workload("one"))
	a.Set(workload("two"))
	a.Synced()
	z.waitSynced(t)
	newest.wait(t, "one", "two")
	if got := z.pods(); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("the older one has %v, want all pods that there are", got)
	}
}

func TestFailedAddIsReportedAndDoesNotHoldUpTheRest(t *testing.T) {
	a := startAgent(t, ServerConfig{})
	a.Set(workload("bad"))
	a.Set(workload("good"))
	a.Synced()
	z := newZtunnel(a.path)
	z.fail = map[string]error{"bad": errors.New("no listener")}
	z.start(t, ClientConfig{})
	z.wait(t, "good")
	wantAcks(t, a.Server, map[string]string{"bad": "ztunnel: no listener", "good": ""})
}

func TestV1CarriesExactlyOneNetns(t *testing.T) {
	dir := t.TempDir()
	a := startAgent(t, ServerConfig{OpenNetns: func(uid string) (*os.File, error) {
		return os.OpenFile(filepath.Join(dir, uid), os.O_CREATE|os.O_RDWR, 0o600)
	}})
	a.Set(workload("one"))
	a.Synced()
	z := a.startZtunnel(t, ClientConfig{Version: V1})
	z.wait(t, "one")
	if got := z.netns("one"); got != filepath.Join(dir, "one") {
		t.Errorf("netns arrived as %q", got)
	}
	// Warren's own ztunnel is given none by the same agent.
	own := a.startZtunnel(t, ClientConfig{})
	own.wait(t, "one")
	if got := own.netns("one"); got != "" {
		t.Errorf("own ztunnel was handed %q", got)
	}
}

func TestV1NetnsThatIsGoneIsKept(t *testing.T) {
	a := startAgent(t, ServerConfig{OpenNetns: func(string) (*os.File, error) { return nil, os.ErrNotExist }})
	a.Set(workload("one"))
	a.Synced()
	z := newZtunnel(a.path)
	z.client = NewClient(ClientConfig{Version: V1})
	z.client.pods["one"] = true // from the agent before
	z.have["one"] = workload("one")
	z.run(t)
	z.waitSynced(t)
	z.wait(t, "one")
}

func TestV1IsRefusedWithoutNamespaces(t *testing.T) {
	a := startAgent(t, ServerConfig{})
	c := dialRaw(t, a.path)
	must(t, writePacket(c, helloMessage(V1), nil))
	wantEnd(t, c)
}

func TestServerEndsMisbehavingZtunnels(t *testing.T) {
	for _, tt := range []struct {
		name string
		say  func(t *testing.T, c *net.UnixConn)
	}{
		{"unknown version", func(t *testing.T, c *net.UnixConn) { must(t, writePacket(c, helloMessage(9), nil)) }},
		{"no message", func(t *testing.T, c *net.UnixConn) { writeRaw(t, c, []byte{0xff}) }},
		{"packet too long", func(t *testing.T, c *net.UnixConn) { writeRaw(t, c, longHello(t)) }},
		{"file descriptor", func(t *testing.T, c *net.UnixConn) {
			must(t, writePacket(c, helloMessage(WarrenV1), os.Stderr))
		}},
		{"ack without request", func(t *testing.T, c *net.UnixConn) {
			must(t, writePacket(c, helloMessage(WarrenV1), nil))
			must(t, writePacket(c, ackMessage(nil), nil))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := startAgent(t, ServerConfig{})
			c := dialRaw(t, a.path)
			tt.say(t, c)
			wantEnd(t, c)
		})
	}
}

func TestClientEndsMisbehavingAgents(t *testing.T) {
	add := request{kindAdd, workload("one")}
	for _, tt := range []struct {
		name string
		say  func(t *testing.T, c *net.UnixConn)
	}{
		{"netns for Warren's ztunnel", func(t *testing.T, c *net.UnixConn) { must(t, writePacket(c, add.message(), os.Stderr)) }},
		{"two files", func(t *testing.T, c *net.UnixConn) { writeFiles(t, c, add, 2) }},
		{"more files than are read", func(t *testing.T, c *net.UnixConn) { writeFiles(t, c, add, 9) }},
		{"empty uid", func(t *testing.T, c *net.UnixConn) { must(t, writePacket(c, request{kind: kindAdd}.message(), nil)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := listen(t)
			z := newZtunnel(l.Addr().String())
			z.start(t, ClientConfig{})
			c, err := l.AcceptUnix()
			must(t, err)
			defer c.Close()
			must(t, c.SetDeadline(time.Now().Add(patience)))
			if b, _, err := readPacket(c); err != nil {
				t.Fatal(err)
			} else if v, err := decodeHello(b); err != nil || v != WarrenV1 {
				t.Fatalf("hello: version %d, %v", v, err)
			}
			tt.say(t, c)
			wantEnd(t, c)
			if got := z.pods(); len(got) != 0 {
				t.Errorf("ztunnel serves %v", got)
			}
		})
	}
}

func TestMoreFilesThanAreReadIsAnError(t *testing.T) {
	l := listen(t)
	c := dialRaw(t, l.Addr().String())
	s, err := l.AcceptUnix()
	must(t, err)
	defer s.Close()
	writeFiles(t, c, request{kindAdd, workload("one")}, 9)
	if _, _, err := readPacket(s); !errors.Is(err, ErrDescriptors) {
		t.Errorf("got %v, want %v", err, ErrDescriptors)
	}
}

func TestAckTextAlwaysFits(t *testing.T) {
	long := make([]rune, 2*MaxPacket)
	for i := range long {
		long[i] = 'ü'
	}
	for _, s := range []string{"", "short", string(long), "\xff\xfe"} {
		l := listen(t)
		c := dialRaw(t, l.Addr().String())
		s2, err := l.AcceptUnix()
		must(t, err)
		if err := writePacket(c, ackMessage(errors.New(s)), nil); err != nil {
			t.Errorf("%.10q: %v", s, err)
		}
		b, _, err := readPacket(s2)
		must(t, err)
		if text, err := decodeAck(b); err != nil || text == "" {
			t.Errorf("%.10q arrived as %q, %v", s, text, err)
		}
		s2.Close()
	}
}

func TestPace(t *testing.T) {
	p := newPace(3, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	for range 3 {
		must(t, p.wait(ctx))
	}
	cancel()
	if err := p.wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after the burst: got %v, want to wait", err)
	}
}

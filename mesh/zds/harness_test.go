// SPDX-License-Identifier: Apache-2.0

package zds

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
)

// agent is a Server with its socket.
type agent struct {
	*Server
	path string
	stop func()
}

func startAgent(t *testing.T, cfg ServerConfig) *agent {
	t.Helper()
	l := listen(t)
	a := &agent{Server: NewServer(cfg), path: l.Addr().String()}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.Serve(ctx, l); err != nil {
			t.Errorf("serve: %v", err)
		}
	}()
	a.stop = func() { cancel(); <-done }
	t.Cleanup(a.stop)
	return a
}

func (a *agent) startZtunnel(t *testing.T, cfg ClientConfig) *ztunnel {
	t.Helper()
	before := a.Connections()
	z := newZtunnel(a.path)
	z.start(t, cfg)
	a.waitConnections(t, before+1)
	return z
}

func (a *agent) waitConnections(t *testing.T, n int) {
	t.Helper()
	eventually(t, func() string {
		if got := a.Connections(); got != n {
			return fmt.Sprintf("%d connections, want %d", got, n)
		}
		return ""
	})
}

// ztunnel is a Client with a handler that notes what it serves.
type ztunnel struct {
	client *Client
	fail   map[string]error
	stop   func()

	mu     sync.Mutex
	path   string
	have   map[string]Workload
	files  map[string]string
	synced int
}

func newZtunnel(path string) *ztunnel {
	return &ztunnel{path: path, have: make(map[string]Workload), files: make(map[string]string)}
}

func (z *ztunnel) start(t *testing.T, cfg ClientConfig) {
	z.client = NewClient(cfg)
	z.run(t)
}

func (z *ztunnel) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := z.client.Run(ctx, z.dial, z); !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
	}()
	z.stop = func() { cancel(); <-done }
	t.Cleanup(z.stop)
}

func (z *ztunnel) dial(ctx context.Context) (net.Conn, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	return (&net.Dialer{}).DialContext(ctx, "unixpacket", z.path)
}

func (z *ztunnel) redirect(path string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.path = path
}

func (z *ztunnel) Add(w Workload) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	if err := z.fail[w.UID]; err != nil {
		return err
	}
	if w.Netns != nil {
		z.files[w.UID], _ = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", w.Netns.Fd()))
		w.Netns.Close()
		w.Netns = nil
	}
	z.have[w.UID] = w
	return nil
}

func (z *ztunnel) Del(uid string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	delete(z.have, uid)
}

func (z *ztunnel) Synced() {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.synced++
}

func (z *ztunnel) get(uid string) Workload {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.have[uid]
}

func (z *ztunnel) netns(uid string) string {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.files[uid]
}

func (z *ztunnel) pods() []string {
	z.mu.Lock()
	defer z.mu.Unlock()
	return slices.Sorted(maps.Keys(z.have))
}

func (z *ztunnel) all(n int) (uids []string) {
	for i := range n {
		uids = append(uids, fmt.Sprint(i))
	}
	return uids
}

func (z *ztunnel) wait(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(want)
	eventually(t, func() string { return cmp.Diff(want, z.pods()) })
}

func (z *ztunnel) waitSynced(t *testing.T) {
	t.Helper()
	eventually(t, func() string {
		z.mu.Lock()
		defer z.mu.Unlock()
		if z.synced == 0 {
			return "not synced"
		}
		return ""
	})
}

func workload(uid string) Workload {
	return Workload{UID: uid, Name: "pod-" + uid, Namespace: "default", ServiceAccount: "sa-" + uid}
}

func wantAcks(t *testing.T, s *Server, want map[string]string) {
	t.Helper()
	got := make(map[string]string)
	for len(got) < len(want) {
		select {
		case a := <-s.Acks():
			got[a.UID] = ""
			if a.Err != nil {
				got[a.UID] = a.Err.Error()
			}
		case <-time.After(patience):
			t.Fatalf("acks: got %v, want %v", got, want)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("acks (-want +got):\n%s", d)
	}
}

func wantEnd(t *testing.T, c *net.UnixConn) {
	t.Helper()
	must(t, c.SetDeadline(time.Now().Add(patience)))
	for {
		_, files, err := readPacket(c)
		closeAll(files)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("connection was not closed")
		}
		if err != nil {
			return
		}
	}
}

func listen(t *testing.T) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "zds.sock"), Net: "unixpacket"})
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func dialRaw(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func writeRaw(t *testing.T, c *net.UnixConn, b []byte) {
	t.Helper()
	_, err := c.Write(b)
	must(t, err)
}

func writeFiles(t *testing.T, c *net.UnixConn, r request, n int) {
	t.Helper()
	b, err := marshal(r.message())
	must(t, err)
	_, _, err = c.WriteMsgUnix(b, unix.UnixRights(slices.Repeat([]int{int(os.Stderr.Fd())}, n)...), nil)
	must(t, err)
}

// longHello is a good hello, one byte longer than allowed by a field nobody knows.
func longHello(t *testing.T) []byte {
	t.Helper()
	b, err := marshal(helloMessage(WarrenV1))
	must(t, err)
	b = protowire.AppendTag(b, 100, protowire.BytesType)
	b = protowire.AppendBytes(b, make([]byte, MaxPacket+1-len(b)-2))
	if len(b) != MaxPacket+1 {
		t.Fatalf("hello of %d bytes", len(b))
	}
	return b
}

func eventually(t *testing.T, problem func() string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		p := problem()
		if p == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(p)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

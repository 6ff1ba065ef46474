// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/reason"
)

func sample() *Record {
	return &Record{
		Time:      time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
		Src:       Peer{Addr: netip.MustParseAddrPort("10.1.0.1:4000"), Workload: "client", Namespace: "shop", Identity: "spiffe://cluster.local/ns/shop/sa/client", Cluster: "east"},
		Dst:       Peer{Addr: netip.MustParseAddrPort("[fd00::2]:15008"), Workload: "web", Namespace: "front", Identity: "spiffe://cluster.local/ns/front/sa/web", Cluster: "west"},
		HBONEAddr: "[fd00::2]:80", Service: "web.shop.svc.cluster.local", Direction: "outbound",
		Sent: 5, Received: 7, Duration: 1500 * time.Millisecond, Reason: reason.Tunnel,
		Policy: "front/lock", DryRun: "front/try,front/trial", Audit: "front/watch", TraceID: "4bf92f3577b34da6a3ce929d0e0e4736",
	}
}

func TestText(t *testing.T) {
	r := sample()
	want := `2026-01-02T03:04:05.000006Z info access connection complete src.addr=10.1.0.1:4000 src.workload=client src.namespace=shop ` +
		`src.identity=spiffe://cluster.local/ns/shop/sa/client src.cluster=east dst.hbone_addr=[fd00::2]:80 dst.service=web.shop.svc.cluster.local ` +
		`dst.addr=[fd00::2]:15008 dst.workload=web dst.namespace=front dst.identity=spiffe://cluster.local/ns/front/sa/web dst.cluster=west ` +
		`direction=outbound bytes_sent=5 bytes_recv=7 duration=1500ms reason=TUNNEL policy=front/lock policy_dry_run=front/try,front/trial ` +
		`policy_audit=front/watch trace_id=4bf92f3577b34da6a3ce929d0e0e4736` + "\n"
	if got := string(Text(nil, r)); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	r.Reason, r.Err = reason.StrictMTLS, errors.New("refused\n\"quoted\"=x")
	if got := string(Text(nil, r)); !strings.HasSuffix(got, ` trace_id=4bf92f3577b34da6a3ce929d0e0e4736 error="refused\n\"quoted\"=x"`+"\n") || !strings.Contains(got, " error access ") || !strings.Contains(got, " reason=STRICT_MTLS ") || strings.Count(got, "\n") != 1 {
		t.Errorf("got %s", got)
	}
}

func TestJSON(t *testing.T) {
	r := sample()
	r.Err = errors.New("line\nbreak \"and\" \\ \x01 \xff ü")
	var got map[string]any
	if err := json.Unmarshal(JSON(nil, r), &got); err != nil {
		t.Fatalf("not JSON: %v: %s", err, JSON(nil, r))
	}
	want := map[string]any{
		"time": "2026-01-02T03:04:05.000006Z", "level": "error", "scope": "access", "message": "connection complete",
		"src.addr": "10.1.0.1:4000", "src.workload": "client", "src.namespace": "shop", "src.identity": "spiffe://cluster.local/ns/shop/sa/client", "src.cluster": "east",
		"dst.hbone_addr": "[fd00::2]:80", "dst.service": "web.shop.svc.cluster.local", "dst.addr": "[fd00::2]:15008",
		"dst.workload": "web", "dst.namespace": "front", "dst.identity": "spiffe://cluster.local/ns/front/sa/web", "dst.cluster": "west",
		"direction": "outbound", "bytes_sent": 5.0, "bytes_recv": 7.0, "duration": "1500ms", "reason": "TUNNEL",
		"policy": "front/lock", "policy_dry_run": "front/try,front/trial", "policy_audit": "front/watch",
		"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "error": "line\nbreak \"and\" \\ \x01 \uFFFD ü",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestSampleIsFull: a key whose value no test has could be lost without one noticing.
func TestSampleIsFull(t *testing.T) {
	zero := func(name string, v reflect.Value) {
		for i := range v.NumField() {
			switch f := v.Type().Field(i).Name; {
			case name+f == "Opened", name+f == "Early", name+f == "Err": // other lines have them
			case v.Field(i).IsZero():
				t.Errorf("%s%s is empty", name, f)
			}
		}
	}
	r := sample()
	zero("", reflect.ValueOf(*r))
	zero("Src.", reflect.ValueOf(r.Src))
	zero("Dst.", reflect.ValueOf(r.Dst))
}

// TestEarlyFailure: what failed before it was a connection has ambient's words for it.
func TestEarlyFailure(t *testing.T) {
	r := sample()
	r.Early, r.Err = true, errors.New("no certificate")
	if got := string(Text(nil, r)); !strings.Contains(got, " warn access connection failed src.addr=") {
		t.Errorf("got %s", got)
	}
}

// TestConfigure: the mesh's configuration says which connections have a line and how it is written, and changes it at
// once.
func TestConfigure(t *testing.T) {
	good, bad, opened := sample(), sample(), sample()
	bad.Err, opened.Opened = errors.New("broken"), true
	for _, tt := range []struct {
		name   string
		config mesh.AccessLog
		lines  int
		json   bool
	}{
		{"as the flag says", mesh.AccessLog{}, 3, false},
		{"all, JSON", mesh.AccessLog{Format: mesh.AccessLogJSON}, 3, true},
		{"errors", mesh.AccessLog{Mode: mesh.AccessLogErrors, Format: mesh.AccessLogText}, 1, false},
		{"off", mesh.AccessLog{Mode: mesh.AccessLogOff, Format: mesh.AccessLogJSON}, 0, false},
	} {
		var out bytes.Buffer
		w := New(&out, Text)
		w.Configure(tt.config)
		for _, r := range []*Record{good, bad, opened} {
			w.Write(r)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = w.Run(ctx)
		if n := strings.Count(out.String(), "\n"); n != tt.lines || strings.HasPrefix(out.String(), "{") != tt.json {
			t.Errorf("%s: got %s", tt.name, out.String())
		}
		if w.Wants(nil) != (tt.lines == 3) || w.Wants(bad.Err) != (tt.lines > 0) {
			t.Errorf("%s: wants lines it does not write", tt.name)
		}
	}
	if (*Writer)(nil).Wants(nil) {
		t.Error("no writer wants a line")
	}
}

// TestBlockedPipe: a reader of the log that stops reading holds up nobody: writing goes on, what is lost is counted, and
// the reader finds whole lines when it goes on.
func TestBlockedPipe(t *testing.T) {
	r, sink, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w := New(sink, JSON)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	const n = 5 * QueueLength
	began := time.Now()
	for range n {
		w.Write(sample())
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("%d lines to a pipe that nobody reads took %v", n, took)
	}
	lost := w.Dropped()
	if lost == 0 {
		t.Error("nothing was dropped")
	}
	read := make(chan int)
	go func() {
		lines := 0
		for s := bufio.NewScanner(r); s.Scan(); lines++ {
			if !json.Valid(s.Bytes()) {
				t.Errorf("half a line: %s", s.Text())
			}
		}
		read <- lines
	}()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	sink.Close()
	if got := <-read; uint64(got)+lost != n {
		t.Errorf("%d lines read and %d lost of %d", got, lost, n)
	}
}

func TestWriterWritesAll(t *testing.T) {
	var out bytes.Buffer
	w := New(&out, Text)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	for range 1000 {
		w.Write(sample())
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := uint64(bytes.Count(out.Bytes(), []byte("\n"))) + w.Dropped(); got != 1000 || w.Dropped() != 0 {
		t.Errorf("%d lines written or dropped (%d), want 1000 written", got, w.Dropped())
	}
}

func TestWriterNeverBlocks(t *testing.T) {
	r, sink := io.Pipe() // nobody reads
	w := New(sink, Text)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	for range 3 * QueueLength {
		w.Write(sample())
	}
	if w.Dropped() < QueueLength/2 {
		t.Errorf("dropped %d of %d lines to a stuck sink", w.Dropped(), 3*QueueLength)
	}
	cancel()
	r.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestStuckSinkDoesNotHoldUpTheEnd: nobody reads, and the writer still ends.
func TestStuckSinkDoesNotHoldUpTheEnd(t *testing.T) {
	r, sink := io.Pipe()
	t.Cleanup(func() { r.Close() })
	w := New(sink, Text)
	w.last = 10 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	w.Write(sample())
	for len(w.queue) > 0 {
		time.Sleep(time.Millisecond)
	}
	w.Write(sample()) // behind the one that is stuck
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("a stuck sink holds the writer up")
	}
}

// moody is a sink that fails while it is told to.
type moody struct {
	fails atomic.Bool
	lines atomic.Uint64
}

func (m *moody) Write(p []byte) (int, error) {
	if m.fails.Load() {
		return 0, syscall.ENOSPC
	}
	m.lines.Add(uint64(bytes.Count(p, []byte("\n"))))
	return len(p), nil
}

// TestWriterOutlivesItsSink: a sink that fails loses lines, and has the later ones when it recovers.
func TestWriterOutlivesItsSink(t *testing.T) {
	sink := &moody{}
	sink.fails.Store(true)
	w := New(sink, Text)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	w.Write(sample())
	for w.Dropped() == 0 {
		time.Sleep(time.Millisecond)
	}
	sink.fails.Store(false)
	w.Write(sample())
	cancel()
	if err := <-done; err != nil || sink.lines.Load() != 1 || w.Dropped() != 1 {
		t.Errorf("ended by %v with %d lines written and %d dropped, want 1 and 1", err, sink.lines.Load(), w.Dropped())
	}
}

func BenchmarkText(b *testing.B) {
	r, buf := sample(), make([]byte, 0, 1024)
	b.ReportAllocs()
	for range b.N {
		buf = Text(buf[:0], r)
	}
}

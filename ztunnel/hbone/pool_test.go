// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/ztunnel/record"
)

var (
	podA = Key{PodUID: "a", Source: "spiffe://cluster.local/ns/n/sa/s", Expected: "spiffe://cluster.local/ns/n/sa/t",
		Destination: netip.MustParseAddrPort("[2001:db8::1]:15008")}
	podB = Key{PodUID: "b", Source: podA.Source, Expected: podA.Expected, Destination: podA.Destination}
)

// farm makes connections to servers of its own and counts them.
type farm struct {
	tb      testing.TB
	config  Config
	handler func(*ServerStream)
	dials   atomic.Int32
	dialing atomic.Int32
	most    atomic.Int32 // dials at once

	mu      sync.Mutex
	servers []*ServerConn
}

func (f *farm) dial(context.Context) (record.Conn, error) {
	f.dials.Add(1)
	if n := f.dialing.Add(1); n > f.most.Load() {
		f.most.Store(n)
	}
	defer f.dialing.Add(-1)
	c, s := tlsPair(f.tb)
	server := NewServer(record.OverTLS(s), f.config, f.handler)
	f.mu.Lock()
	f.servers = append(f.servers, server)
	f.mu.Unlock()
	go func() { _ = server.Serve(context.Background()) }()
	f.tb.Cleanup(func() { _ = server.Close() })
	return record.OverTLS(c), nil
}

func newPool(tb testing.TB, config PoolConfig) *Pool {
	p := NewPool(config)
	tb.Cleanup(p.CloseAll)
	return p
}

func TestPoolShares(t *testing.T) {
	f := &farm{tb: t, handler: accepting(echo)}
	p := newPool(t, PoolConfig{})
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			s, err := p.Open(deadline(t), podA, Request{Authority: "a:1"}, f.dial)
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = s.Write([]byte("x"))
			_ = s.CloseWrite()
			if b, err := io.ReadAll(s); err != nil || string(b) != "x" {
				t.Errorf("%q %v", b, err)
			}
		})
	}
	all.Wait()
	if n := f.dials.Load(); n != 1 || p.Connections() != 1 {
		t.Errorf("%d dials, %d connections", n, p.Connections())
	}
	eventually(t, "no streams", func() bool { return p.Streams() == 0 })
}

// TestPoolKeepsPodsApart: two pods of one service account, to one destination, never share a connection.
func TestPoolKeepsPodsApart(t *testing.T) {
	f := &farm{tb: t, handler: accepting(echo)}
	p := newPool(t, PoolConfig{})
	conns := map[*conn]string{}
	for range 3 {
		for _, key := range []Key{podA, podB} {
			s, err := p.Open(deadline(t), key, Request{Authority: "a:1"}, f.dial)
			if err != nil {
				t.Fatal(err)
			}
			if owner, ok := conns[s.conn]; ok && owner != key.PodUID {
				t.Fatalf("pods %s and %s share a connection", owner, key.PodUID)
			}
			conns[s.conn] = key.PodUID
		}
	}
	if len(conns) != 2 || p.Connections() != 2 {
		t.Fatalf("%d connections used, %d held", len(conns), p.Connections())
	}
}

// TestPoolObeysPeersNumber: streams beyond the peer's number get another connection, one dial at a time.
func TestPoolObeysPeersNumber(t *testing.T) {
	f := &farm{tb: t, config: Config{MaxStreams: 3}, handler: accepting(echo)}
	p := newPool(t, PoolConfig{})
	var all sync.WaitGroup
	var mu sync.Mutex
	perConn := map[*conn]int{}
	for range 20 {
		all.Go(func() {
			s, err := p.Open(deadline(t), podA, Request{Authority: "a:1"}, f.dial)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			perConn[s.conn]++
			mu.Unlock()
		})
	}
	all.Wait()
	for _, n := range perConn {
		if n > 3 {
			t.Errorf("%d streams on one connection", n)
		}
	}
	if len(perConn) != 7 || p.Streams() != 20 || f.most.Load() != 1 {
		t.Errorf("%d connections, %d streams, %d dials at once", len(perConn), p.Streams(), f.most.Load())
	}
}

func TestPoolDropsConnectionsThatGoAway(t *testing.T) {
	f := &farm{tb: t, handler: accepting(echo)}
	p := newPool(t, PoolConfig{})
	old, err := p.Open(deadline(t), podA, Request{Authority: "a:1"}, f.dial)
	if err != nil {
		t.Fatal(err)
	}
	f.servers[0].GoAway()
	eventually(t, "connection dropped", func() bool { return p.Connections() == 0 })
	fresh, err := p.Open(deadline(t), podA, Request{Authority: "a:1"}, f.dial)
	if err != nil || fresh.conn == old.conn {
		t.Fatalf("same connection, or %v", err)
	}
	_, _ = old.Write([]byte("still here"))
	_ = old.CloseWrite()
	if b, err := io.ReadAll(old); err != nil || string(b) != "still here" {
		t.Fatalf("%q %v", b, err)
	}
}

func TestPoolReleasesIdle(t *testing.T) {
	var now atomic.Int64
	f := &farm{tb: t, handler: accepting(echo)}
	p := newPool(t, PoolConfig{Now: func() time.Time { return time.Unix(now.Load(), 0) }})
	s, err := p.Open(deadline(t), podA, Request{Authority: "a:1"}, f.dial)
	if err != nil {
		t.Fatal(err)
	}
	now.Add(3600)
	p.sweep()
	if p.Connections() != 1 {
		t.Fatal("a connection in use was released")
	}
	s.Reset(CodeCancel)
	now.Add(299)
	p.sweep()
	if p.Connections() != 1 {
		t.Fatal("released before its time")
	}
	if s, err = p.Open(deadline(t), podA, Request{Authority: "a:1"}, f.dial); err != nil {
		t.Fatal(err)
	}
	s.Reset(CodeCancel)
	now.Add(299) // counts from the last use
	p.sweep()
	if p.Connections() != 1 || f.dials.Load() != 1 {
		t.Fatal("released before its time after another use")
	}
	now.Add(1)
	p.sweep()
	eventually(t, "released", func() bool { return p.Connections() == 0 })
	<-f.servers[0].Done()
}

func TestPoolSharesFailure(t *testing.T) {
	p := newPool(t, PoolConfig{})
	refused := errors.New("refused")
	var dials atomic.Int32
	release := make(chan struct{})
	dial := func(context.Context) (record.Conn, error) {
		dials.Add(1)
		<-release
		return nil, refused
	}
	failures := make(chan error, 10)
	for range cap(failures) {
		go func() {
			_, err := p.Open(deadline(t), podA, Request{Authority: "a:1"}, dial)
			failures <- err
		}()
	}
	eventually(t, "a dial", func() bool { return dials.Load() > 0 })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.Open(ctx, podA, Request{Authority: "a:1"}, dial); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	close(release)
	for range cap(failures) {
		if err := <-failures; err != refused {
			t.Errorf("open: %v", err)
		}
	}
}

// TestPoolDialOutlivesCaller: who began a dial may give up; those who wait for it still get it.
func TestPoolDialOutlivesCaller(t *testing.T) {
	f := &farm{tb: t, handler: accepting(echo)}
	p := newPool(t, PoolConfig{})
	release, began := make(chan struct{}), make(chan struct{})
	dial := func(ctx context.Context) (record.Conn, error) {
		close(began)
		<-release
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return f.dial(ctx)
	}
	ctx, cancel := context.WithCancel(context.Background())
	first, second := make(chan error), make(chan error)
	open := func(ctx context.Context, done chan error) {
		_, err := p.Open(ctx, podA, Request{Authority: "a:1"}, dial)
		done <- err
	}
	go open(ctx, first)
	<-began
	go open(deadline(t), second)
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("first: %v", err)
	}
	close(release)
	if err := <-second; err != nil {
		t.Errorf("second: %v", err)
	}
}

// TestPoolReplacesStale: a server that died behind an idle connection costs a dial, not a failure; one that dies
// behind a fresh connection is told.
func TestPoolReplacesStale(t *testing.T) {
	var die atomic.Int32
	f := &farm{tb: t}
	f.handler = func(ss *ServerStream) {
		if die.Add(-1) >= 0 {
			_ = ss.stream.conn.records.Close()
			return
		}
		accepting(echo)(ss)
	}
	budget := NewBudget(1 << 20)
	p := newPool(t, PoolConfig{PodBudget: func(string) *Budget { return budget }})
	s, err := p.Open(deadline(t), podA, Request{Authority: "a:1"}, f.dial)
	if err != nil {
		t.Fatal(err)
	}
	if s.conn.config.Budget != budget {
		t.Error("the pod's budget is not used")
	}
	s.Reset(CodeCancel)
	die.Store(1)
	if _, err := p.Open(deadline(t), podA, Request{Authority: "a:1"}, f.dial); err != nil || f.dials.Load() != 2 {
		t.Fatalf("behind an idle connection: %v, %d dials", err, f.dials.Load())
	}
	die.Store(1)
	if _, err := p.Open(deadline(t), podB, Request{Authority: "a:1"}, f.dial); !errors.Is(err, ErrConnectionLost) {
		t.Fatalf("behind a fresh connection: %v", err)
	}
}

// TestPoolClosesDials: who waits for a dial of a pod that goes learns it at once; what the dial brings is closed.
func TestPoolClosesDials(t *testing.T) {
	f := &farm{tb: t, handler: accepting(echo)}
	p := newPool(t, PoolConfig{})
	began, release := make(chan struct{}), make(chan struct{})
	opened := make(chan error)
	go func() {
		_, err := p.Open(deadline(t), podA, Request{Authority: "a:1"}, func(ctx context.Context) (record.Conn, error) {
			close(began)
			<-release
			return f.dial(ctx)
		})
		opened <- err
	}()
	<-began
	p.ClosePod(podA.PodUID)
	if err := <-opened; err != ErrPoolClosed {
		t.Errorf("open: %v", err)
	}
	close(release)
	eventually(t, "a connection made and closed", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.servers) == 0 {
			return false
		}
		select {
		case <-f.servers[0].Done():
			return p.Connections() == 0
		default:
			return false
		}
	})
}

func TestPoolCloses(t *testing.T) {
	f := &farm{tb: t, handler: accepting(echo)}
	p := newPool(t, PoolConfig{})
	a, err := p.Open(deadline(t), podA, Request{Authority: "a:1"}, f.dial)
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.Open(deadline(t), podB, Request{Authority: "a:1"}, f.dial)
	if err != nil {
		t.Fatal(err)
	}
	p.ClosePod(podA.PodUID)
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, ErrConnectionLost) {
		t.Errorf("closed pod's stream: %v", err)
	}
	if _, err := b.Write([]byte("x")); err != nil {
		t.Errorf("other pod's stream: %v", err)
	}
	if again, err := p.Open(deadline(t), podA, Request{Authority: "a:1"}, f.dial); err != nil || again.conn == a.conn {
		t.Errorf("pod again: %v", err)
	}
	p.CloseAll()
	if _, err := b.Read(make([]byte, 8)); err == nil {
		_, err = b.Read(make([]byte, 8))
		if !errors.Is(err, ErrConnectionLost) {
			t.Errorf("stream of a closed pool: %v", err)
		}
	}
	if _, err := p.Open(deadline(t), podA, Request{Authority: "a:1"}, f.dial); err != ErrPoolClosed {
		t.Errorf("closed pool: %v", err)
	}
}

// TestPoolPassesOnStatus: a refusal is an answer, not a reason to try another connection.
func TestPoolPassesOnStatus(t *testing.T) {
	f := &farm{tb: t, handler: func(ss *ServerStream) { _ = ss.Refuse(401) }}
	p := newPool(t, PoolConfig{})
	_, err := p.Open(deadline(t), podA, Request{Authority: "a:1"}, f.dial)
	var refused *StatusError
	if !errors.As(err, &refused) || refused.Status != 401 || f.dials.Load() != 1 {
		t.Fatalf("%v after %d dials", err, f.dials.Load())
	}
}

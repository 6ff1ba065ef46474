// SPDX-License-Identifier: Apache-2.0

package inpod

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/tests/testutil"
)

// asks records what a pool asks for.
type asks struct {
	mu    sync.Mutex
	sizes []int
	away  bool // no broker
}

func (a *asks) ask(_ string, n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.away {
		return false
	}
	a.sizes = append(a.sizes, n)
	return true
}

func (a *asks) take() []int {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.sizes
	a.sizes = nil
	return s
}

func fds(t *testing.T, n int) []int {
	t.Helper()
	var out []int
	for range n {
		fd, err := unix.FcntlInt(os.Stdin.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fd)
	}
	return out
}

func give(t *testing.T, p *pool, n int) {
	t.Helper()
	p.give(broker.Sockets{Pod: p.pod, Asked: n, Given: n}, fds(t, n))
}

func TestPoolKeepsFourIdle(t *testing.T) {
	var a asks
	p := newPool("p", a.ask)
	defer p.close()
	p.resume()
	if got := a.take(); len(got) != 1 || got[0] != idleSockets {
		t.Fatalf("asked for %v", got)
	}
	give(t, p, idleSockets)
	s, err := p.get(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(s.fd)
	if got := a.take(); len(got) != 1 || got[0] != 1 {
		t.Errorf("after one dial asked for %v", got)
	}
}

func TestPoolGrowsWithTheRateAndShrinks(t *testing.T) {
	var a asks
	p := newPool("p", a.ask)
	defer p.close()
	now := time.Now()
	for i := range 1000 { // 4000 a second
		p.count(now.Add(time.Duration(i) * time.Second / 4000))
	}
	at := now.Add(250 * time.Millisecond)
	if low := p.lowWater(at); low < 55 || low > 110 {
		t.Errorf("low water %d at 4000 dials a second, want about 100", low)
	}
	for i := range 20000 {
		p.count(at.Add(time.Duration(i) * time.Second / 100000))
	}
	if low := p.lowWater(at.Add(200 * time.Millisecond)); low != broker.MaxFDs {
		t.Errorf("low water %d, want the bound", low)
	}
	give(t, p, 200)
	p.shrink(at.Add(10 * time.Second))
	if n := len(p.free); n != 2*idleSockets {
		t.Errorf("%d sockets kept when idle", n)
	}
}

func TestPoolWaitsBounded(t *testing.T) {
	a := asks{away: true}
	p := newPool("p", a.ask)
	defer p.close()
	if _, err := p.get(t.Context(), 10*time.Millisecond); !errors.Is(err, ErrNoSocket) {
		t.Errorf("without a broker: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.get(ctx, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if len(p.waiters) != 0 || p.pending != 0 {
		t.Errorf("%d waiters, %d pending are left", len(p.waiters), p.pending)
	}
	// A broker that comes is asked for those who wait.
	got := make(chan error, 1)
	go func() {
		s, err := p.get(t.Context(), 5*time.Second)
		unix.Close(s.fd)
		got <- err
	}()
	testutil.Eventually(t, 5*time.Second, "nobody waits", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.waiters) == 1
	})
	a.mu.Lock()
	a.away = false
	a.mu.Unlock()
	p.reconnected()
	if n := a.take(); len(n) != 1 || n[0] < 1 {
		t.Fatalf("asked for %v", n)
	}
	give(t, p, 5)
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestPoolAsksAgainAfterARefusal(t *testing.T) {
	var a asks
	p := newPool("p", a.ask)
	defer p.close()
	p.resume()
	a.take()
	p.give(broker.Sockets{Pod: "p", Asked: 4, RetryAfter: 1}, nil)
	testutil.Eventually(t, 5*time.Second, "never asked again", func() bool { return len(a.take()) == 1 })
}

func TestPoolGone(t *testing.T) {
	var a asks
	p := newPool("p", a.ask)
	got := make(chan error, 1)
	go func() {
		_, err := p.get(t.Context(), time.Minute)
		got <- err
	}()
	testutil.Eventually(t, 5*time.Second, "nobody waits", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.waiters) == 1
	})
	p.close()
	if err := <-got; !errors.Is(err, ErrPodGone) || !errors.Is(err, ErrNoSocket) {
		t.Errorf("waiting when the pod went: %v", err)
	}
	if _, err := p.get(t.Context(), time.Minute); !errors.Is(err, ErrPodGone) {
		t.Errorf("after the pod went: %v", err)
	}
	late := fds(t, 2)
	p.give(broker.Sockets{Pod: "p", Asked: 2, Given: 2}, late)
	for _, fd := range late {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
			t.Errorf("a socket of a gone pod is kept open: %v", err)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"crypto/tls"
	"errors"
	"io"
	"sync/atomic"
	"testing"
)

var errDistrusted = errors.New("not trusted any more")

// A connection that is not trusted when it is made carries nothing; one that no longer is ends, with the reason.
func TestPoolTrusts(t *testing.T) {
	f := &farm{tb: t, handler: accepting(echo)}
	var distrust atomic.Bool
	p := newPool(t, PoolConfig{Trusted: func(k Key, _ tls.ConnectionState) error {
		if distrust.Load() && k == podA {
			return errDistrusted
		}
		return nil
	}})
	open := func(k Key) (*Stream, error) { return p.Open(deadline(t), k, Request{Authority: "a:1"}, f.dial) }
	a, err := open(podA)
	if err != nil {
		t.Fatal(err)
	}
	b, err := open(podB)
	if err != nil {
		t.Fatal(err)
	}
	if n := p.Recheck(); n != 0 || p.Connections() != 2 {
		t.Errorf("%d ended, %d left", n, p.Connections())
	}
	distrust.Store(true)
	if n := p.Recheck(); n != 1 || p.Connections() != 1 {
		t.Errorf("%d ended, %d left", n, p.Connections())
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, errDistrusted) || !errors.Is(err, ErrConnectionLost) {
		t.Errorf("its stream read %v", err)
	}
	if _, err := open(podA); !errors.Is(err, errDistrusted) {
		t.Errorf("a new connection: %v", err)
	}
	if p.Connections() != 1 {
		t.Errorf("%d connections", p.Connections())
	}
	_, _ = b.Write([]byte("x"))
	_ = b.CloseWrite()
	if got, err := io.ReadAll(b); err != nil || string(got) != "x" {
		t.Errorf("the other connection: %q %v", got, err)
	}
}

// Connections of one source go away; what lives on them goes on.
func TestGoAwayFrom(t *testing.T) {
	f := &farm{tb: t, handler: accepting(echo)}
	p := newPool(t, PoolConfig{})
	other := podA
	other.Source = "spiffe://cluster.local/ns/n/sa/other"
	var streams []*Stream
	for _, k := range []Key{podA, other} {
		s, err := p.Open(deadline(t), k, Request{Authority: "a:1"}, f.dial)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	p.GoAwayFrom(podA.Source)
	if p.Connections() != 1 {
		t.Errorf("%d connections, want the other's alone", p.Connections())
	}
	for _, s := range streams {
		_, _ = s.Write([]byte("x"))
		_ = s.CloseWrite()
		if got, err := io.ReadAll(s); err != nil || string(got) != "x" {
			t.Errorf("%q %v", got, err)
		}
	}
}

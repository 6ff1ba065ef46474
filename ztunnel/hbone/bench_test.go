// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"io"
	"net"
	"testing"
)

// BenchmarkBytes: application to application through both relays and one tunnel connection; MB/s, and CPU by
// what the benchmark's caller measures.
func BenchmarkBytes(b *testing.B) {
	p := newPath(b, Config{})
	_ = p.client.SetDeadline(noTime)
	_ = p.server.SetDeadline(noTime)
	const size = 64 << 10
	b.SetBytes(size)
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, readerOnly{p.server})
		close(done)
	}()
	block := make([]byte, size)
	b.ResetTimer()
	for range b.N {
		if _, err := p.client.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	_ = p.client.CloseWrite()
	<-done
}

// BenchmarkRequests: 64 bytes there and back, 16 application connections on one tunnel connection.
func BenchmarkRequests(b *testing.B) {
	far := make(chan *net.TCPConn, 1)
	tun := newTunnel(b, Config{}, accepting(func(s *Stream) { _ = relay(<-far, s) }))
	work := make(chan struct{}, 1024)
	done := make(chan struct{})
	const conns = 16
	for range conns {
		p := &path{ended: make(chan error, 2)}
		p.open(b, tun, far)
		_ = p.client.SetDeadline(noTime)
		_ = p.server.SetDeadline(noTime)
		go func() { _, _ = io.Copy(writerOnly{p.server}, readerOnly{p.server}) }()
		go func() {
			defer func() { done <- struct{}{} }()
			message := make([]byte, 64)
			for range work {
				if _, err := p.client.Write(message); err != nil {
					b.Error(err)
				}
				if _, err := io.ReadFull(p.client, message); err != nil {
					b.Error(err)
				}
			}
		}()
	}
	b.ResetTimer()
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	for range conns {
		<-done
	}
}

// BenchmarkOpen: a stream opened, answered and ended on a warm connection.
func BenchmarkOpen(b *testing.B) {
	tun := newTunnel(b, Config{}, accepting(func(s *Stream) {
		_ = s.CloseWrite()
		_, _ = io.Copy(io.Discard, readerOnly{s})
	}))
	ctx := b.Context()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		s, err := tun.client.Open(ctx, Request{Authority: "192.0.2.1:80"})
		if err != nil {
			b.Fatal(err)
		}
		_ = s.CloseWrite()
		if _, err := s.Read(make([]byte, 1)); err != io.EOF {
			b.Fatal(err)
		}
	}
}

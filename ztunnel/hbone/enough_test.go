// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/warren-mesh/warren/ztunnel/record"
)

// fromServer opens a stream to a hand-written server and lets it answer.
func fromServer(t *testing.T, answer func(p *peer, stream uint32)) (*ClientConn, *Stream) {
	t.Helper()
	c, s := tlsPair(t)
	client, err := NewClient(context.Background(), record.OverTLS(c), Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	p := newPeer(s)
	_, _ = io.ReadFull(s, make([]byte, len(preface)))
	go p.listen()
	_ = p.WriteSettings()
	go func() {
		id := <-p.headers
		p.request(id, ":status", "200")
		answer(p, id)
	}()
	stream, err := client.Open(deadline(t), Request{Authority: "a:1"})
	if err != nil {
		t.Fatal(err)
	}
	return client, stream
}

// wholeAnswer is all of n bytes, the end, and a reset.
func wholeAnswer(n int, code http2.ErrCode) func(p *peer, stream uint32) {
	return func(p *peer, stream uint32) {
		for ; n > 0; n -= min(n, maxFrame) {
			_ = p.WriteData(stream, false, make([]byte, min(n, maxFrame)))
		}
		_ = p.WriteData(stream, true, nil)
		_ = p.WriteRSTStream(stream, code)
	}
}

// TestServerHadEnough: RST_STREAM with NO_ERROR behind an answer's end costs nothing of the answer, whenever the
// application comes to take it, and frees the stream's place.
func TestServerHadEnough(t *testing.T) {
	const size = 200 << 10
	for _, early := range []bool{true, false} {
		client, s := fromServer(t, wholeAnswer(size, http2.ErrCodeNo))
		if !early {
			eventually(t, "the stream's place is free", func() bool { return client.Streams() == 0 })
		}
		app, near := tcpPair(t)
		ended := make(chan error, 1)
		go func() { ended <- relay(near, s) }()
		if n, err := io.Copy(io.Discard, readerOnly{app}); err != nil || n != size {
			t.Errorf("the application read %d bytes, %v", n, err)
		}
		eventually(t, "the stream's place is free", func() bool { return client.Streams() == 0 })
		_ = app.Close()
		if err := <-ended; err != nil {
			t.Errorf("relay: %v", err)
		}
	}
}

// TestServerHadEnoughOfMore: an application that says more after that learns that nobody listened, but not before the
// answer is in its socket.
func TestServerHadEnoughOfMore(t *testing.T) {
	const size = 20 << 10 // fits into the socket
	client, s := fromServer(t, wholeAnswer(size, http2.ErrCodeNo))
	app, near := tcpPair(t)
	ended := make(chan error, 1)
	go func() { ended <- relay(near, s) }()
	eventually(t, "the stream's place is free", func() bool { return client.Streams() == 0 })
	_, _ = app.Write([]byte("more"))
	n, err := io.Copy(io.Discard, readerOnly{app})
	if n != size || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the application read %d bytes, %v", n, err)
	}
	var reset *ResetError
	if err := <-ended; !errors.As(err, &reset) || reset.Code != CodeNo {
		t.Errorf("relay: %v", err)
	}
}

// TestServerHadEnoughOfPlainWriter is the same for who uses Read and Write.
func TestServerHadEnoughOfPlainWriter(t *testing.T) {
	client, s := fromServer(t, wholeAnswer(1000, http2.ErrCodeNo))
	eventually(t, "the stream's place is free", func() bool { return client.Streams() == 0 })
	var reset *ResetError
	if _, err := s.Write([]byte("x")); !errors.As(err, &reset) {
		t.Errorf("write: %v", err)
	}
	if b, err := io.ReadAll(readerOnly{s}); err != nil || !bytes.Equal(b, make([]byte, 1000)) {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
	if _, err := s.ReadFrom(readerOnly{bytes.NewReader(nil)}); err != nil {
		t.Errorf("read from nothing: %v", err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// TestServerResets: a reset before the end, or with any other code, is one.
func TestServerResets(t *testing.T) {
	for name, answer := range map[string]func(*peer, uint32){
		"NO_ERROR before the end": func(p *peer, id uint32) {
			_ = p.WriteData(id, false, []byte("x"))
			_ = p.WriteRSTStream(id, http2.ErrCodeNo)
		},
		"CONNECT_ERROR behind the end": wholeAnswer(1, http2.ErrCodeConnect),
	} {
		_, s := fromServer(t, answer)
		app, near := tcpPair(t)
		ended := make(chan error, 1)
		go func() { ended <- relay(near, s) }()
		if _, err := io.Copy(io.Discard, readerOnly{app}); !errors.Is(err, syscall.ECONNRESET) && name == "NO_ERROR before the end" {
			t.Errorf("%s: the application saw %v, want a reset", name, err)
		}
		var reset *ResetError
		if err := <-ended; !errors.As(err, &reset) {
			t.Errorf("%s: relay: %v", name, err)
		}
	}
}

// TestServerHadEnoughOfFlood: a writer that waits for window is told as well.
func TestServerHadEnoughOfFlood(t *testing.T) {
	full := make(chan struct{})
	_, s := fromServer(t, func(p *peer, stream uint32) {
		<-full
		wholeAnswer(1000, http2.ErrCodeNo)(p, stream)
	})
	app, near := tcpPair(t)
	ended := make(chan error, 1)
	go func() { ended <- relay(near, s) }()
	go func() {
		_ = app.SetWriteDeadline(time.Now().Add(20 * time.Second))
		_, _ = app.Write(make([]byte, 64<<20))
	}()
	eventually(t, "no window", func() bool {
		s.conn.mu.Lock()
		defer s.conn.mu.Unlock()
		return s.waiting
	})
	close(full)
	if n, err := io.Copy(io.Discard, readerOnly{app}); n != 1000 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the application read %d bytes, %v", n, err)
	}
	var reset *ResetError
	if err := <-ended; !errors.As(err, &reset) || reset.Code != CodeNo {
		t.Errorf("relay: %v", err)
	}
}

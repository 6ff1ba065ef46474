// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"

	"github.com/warren-mesh/warren/ztunnel/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestResetUnderLoad: resets from anywhere, while others read and write the stream, end everything once, and the
// wire never has DATA behind RST_STREAM.
func TestResetUnderLoad(t *testing.T) {
	c, s := tlsPair(t)
	client, err := NewClient(context.Background(), record.OverTLS(c), Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	p := newPeer(s)
	_, _ = io.ReadFull(s, make([]byte, len(preface)))
	_ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxWindow})
	_ = p.WriteWindowUpdate(0, maxWindow-peerWindow)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		resets := map[uint32]int{}
		r := http2.NewFramer(nil, s)
		for {
			f, err := r.ReadFrame()
			if err != nil {
				return
			}
			id := f.Header().StreamID
			switch f.(type) {
			case *http2.HeadersFrame:
				p.request(id, ":status", "200")
			case *http2.DataFrame:
				if resets[id] > 0 {
					t.Errorf("DATA behind RST_STREAM on stream %d", id)
				}
			case *http2.RSTStreamFrame:
				if resets[id]++; resets[id] > 1 {
					t.Errorf("stream %d reset twice", id)
				}
			}
		}
	}()
	var all sync.WaitGroup
	for i := range 40 {
		stream, err := client.Open(deadline(t), Request{Authority: "a:1"})
		if err != nil {
			t.Fatal(err)
		}
		size := []int{100, 9000, 100000}[i%3]
		started := make(chan struct{}, 1)
		all.Go(func() {
			for {
				_, err := stream.Write(make([]byte, size))
				var reset *ResetError
				if errors.As(err, &reset) && reset.Local {
					return
				}
				if err != nil {
					t.Errorf("write: %v", err)
					return
				}
				select {
				case started <- struct{}{}:
				default:
				}
			}
		})
		all.Go(func() {
			var reset *ResetError
			if _, err := stream.Read(make([]byte, 1)); !errors.As(err, &reset) {
				t.Errorf("read: %v", err)
			}
		})
		<-started
		for range 3 {
			all.Go(func() { stream.Reset(CodeCancel) })
		}
	}
	all.Wait()
	if n := client.Streams(); n != 0 {
		t.Errorf("%d streams left", n)
	}
	_ = client.Close()
	<-watched
}

func TestAfterCloseWrite(t *testing.T) {
	tun := newTunnel(t, Config{}, accepting(echo))
	s := tun.open(t)
	if err := errors.Join(s.CloseWrite(), s.CloseWrite()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("x")); err != io.ErrClosedPipe {
		t.Errorf("write: %v", err)
	}
	if _, err := s.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read: %v", err)
	}
	s.Reset(CodeCancel) // both sides have ended: nothing to tell the peer
	if again := tun.open(t); again == nil {
		t.Fatal("the connection did not survive")
	}
}

func TestAnswerOnce(t *testing.T) {
	second := make(chan error, 2)
	tun := newTunnel(t, Config{}, func(ss *ServerStream) {
		if ss.Request().Authority == "refuse:1" {
			_ = ss.Refuse(503)
		} else if s, err := ss.Accept(Header{Baggage: "a=b"}); err == nil {
			_ = s.CloseWrite()
		}
		_, err := ss.Accept(Header{})
		second <- errors.Join(err, nil)
	})
	s := tun.open(t)
	if h := s.Header(); h.Baggage != "a=b" {
		t.Errorf("answer's header %+v", h)
	}
	_, err := tun.client.Open(deadline(t), Request{Authority: "refuse:1"})
	var status *StatusError
	if !errors.As(err, &status) || status.Status != 503 {
		t.Errorf("refused: %v", err)
	}
	for range 2 {
		if <-second == nil {
			t.Error("answered twice")
		}
	}
}

// TestServeEndsWithContext: a context that ends takes the connection with it.
func TestServeEndsWithContext(t *testing.T) {
	c, s := tlsPair(t)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, record.OverTLS(s), Config{}, accepting(echo)) }()
	client, err := NewClient(context.Background(), record.OverTLS(c), Config{})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := client.Open(deadline(t), Request{Authority: "a:1"})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-served; !errors.Is(err, context.Canceled) || !errors.Is(err, ErrConnectionLost) {
		t.Errorf("serve: %v", err)
	}
	if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, ErrConnectionLost) {
		t.Errorf("read: %v", err)
	}
}

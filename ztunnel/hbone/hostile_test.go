// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/warren-mesh/warren/ztunnel/record"
)

// peer is the other end of a connection, written by hand with x/net's Framer.
type peer struct {
	*http2.Framer
	conn    io.ReadWriteCloser
	block   bytes.Buffer
	encoder *hpack.Encoder
	goAway  chan http2.ErrCode // what it was told
	reset   chan *http2.RSTStreamFrame
	headers chan uint32
}

// newPeer starts reading what the other side says; it answers nothing but SETTINGS.
func newPeer(conn io.ReadWriteCloser) *peer {
	p := &peer{
		Framer: http2.NewFramer(conn, conn), conn: conn, goAway: make(chan http2.ErrCode, 16),
		reset: make(chan *http2.RSTStreamFrame, 1024), headers: make(chan uint32, 1024),
	}
	p.AllowIllegalWrites = true
	p.encoder = hpack.NewEncoder(&p.block)
	return p
}

func (p *peer) listen() {
	r := http2.NewFramer(nil, p.conn)
	for {
		f, err := r.ReadFrame()
		if err != nil {
			close(p.goAway)
			return
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			p.goAway <- f.ErrCode
		case *http2.RSTStreamFrame:
			c := *f
			select {
			case p.reset <- &c:
			default: // more than any test looks at
			}
		case *http2.HeadersFrame:
			p.headers <- f.StreamID
		}
	}
}

func (p *peer) encode(fields ...string) []byte {
	p.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = p.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(p.block.Bytes())
}

func (p *peer) connect(stream uint32) {
	_ = p.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: p.encode(":method", "CONNECT", ":authority", "a:1"), EndHeaders: true})
}

func (p *peer) request(stream uint32, fields ...string) {
	_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: p.encode(fields...), EndHeaders: true})
}

// raw writes a frame whatever it says.
func (p *peer) raw(typ frameType, flags uint8, stream uint32, payload []byte) {
	_ = p.WriteRawFrame(http2.FrameType(typ), http2.Flags(flags), stream, payload)
}

func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// hostileServer gives a hand-written client against our server; its handler accepts and reads nothing.
func hostileServer(t *testing.T, config Config, settle bool) (*peer, chan error) {
	t.Helper()
	c, s := tlsPair(t)
	served := make(chan error, 1)
	server := NewServer(record.OverTLS(s), config, func(ss *ServerStream) { _, _ = ss.Accept(Header{}) })
	go func() { served <- server.Serve(context.Background()) }()
	t.Cleanup(func() { _ = server.Close() })
	p := newPeer(c)
	go p.listen()
	if settle {
		_, _ = io.WriteString(c, preface)
		_ = p.WriteSettings()
	}
	return p, served
}

const noCode = Code(1 << 30)

func TestHostileClient(t *testing.T) {
	settings := func(id http2.SettingID, v uint32) func(*peer) {
		return func(p *peer) { _ = p.WriteSettings(http2.Setting{ID: id, Val: v}) }
	}
	raw := func(typ frameType, flags uint8, stream uint32, payload []byte) func(*peer) {
		return func(p *peer) { p.raw(typ, flags, stream, payload) }
	}
	opened := func(f func(*peer)) func(*peer) {
		return func(p *peer) {
			p.connect(1)
			f(p)
		}
	}
	flood := func(typ frameType, flags uint8, stream uint32, payload []byte) func(*peer) {
		return func(p *peer) {
			var b []byte
			for range 100 {
				b = appendFrame(b, typ, flags, stream, payload)
			}
			for range 300 {
				if _, err := p.conn.Write(b); err != nil {
					return
				}
			}
		}
	}
	for _, test := range []struct {
		name   string
		do     func(*peer)
		conn   Code // error of the connection, or noCode
		stream Code // error of a stream, where the connection has none
	}{
		{"frame too long", raw(frameData, 0, 1, make([]byte, maxFrame+1)), CodeFrameSize, 0},
		{"data on stream 0", raw(frameData, 0, 0, []byte("x")), CodeProtocol, 0},
		{"data on idle stream", raw(frameData, 0, 1, []byte("x")), CodeProtocol, 0},
		{"data on even stream", raw(frameData, 0, 2, []byte("x")), CodeProtocol, 0},
		{"data behind end", opened(func(p *peer) {
			p.raw(frameData, flagEndStream, 1, nil)
			p.raw(frameData, 0, 1, []byte("x"))
		}), noCode, CodeStreamClosed},
		{"padding too long", opened(raw(frameData, flagPadded, 1, []byte{3, 0, 0})), CodeProtocol, 0},
		{"padding without length", opened(raw(frameData, flagPadded, 1, nil)), CodeFrameSize, 0},
		{"stream window overrun", opened(func(p *peer) {
			for range streamWindow/maxFrame + 1 {
				p.raw(frameData, 0, 1, make([]byte, maxFrame))
			}
		}), noCode, CodeFlowControl},
		{"data on closed stream without end", opened(func(p *peer) {
			p.raw(frameReset, 0, 1, u32(8))
			for range 4 {
				p.raw(frameData, 0, 1, make([]byte, maxFrame))
			}
		}), CodeStreamClosed, 0},
		{"headers on stream 0", raw(frameHeaders, flagEndHeaders, 0, nil), CodeProtocol, 0},
		{"headers on even stream", func(p *peer) { p.connect(2) }, CodeProtocol, 0},
		{"headers on closed stream", func(p *peer) { p.connect(3); p.connect(1) }, CodeStreamClosed, 0},
		{"headers twice without end", opened(func(p *peer) { p.connect(1) }), noCode, CodeProtocol},
		{"headers padding too long", raw(frameHeaders, flagEndHeaders|flagPadded, 1, []byte{9, 0x82}), CodeProtocol, 0},
		{"headers priority too short", raw(frameHeaders, flagEndHeaders|flagPriority, 1, []byte{1}), CodeFrameSize, 0},
		{"bad hpack", raw(frameHeaders, flagEndHeaders, 1, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), CodeCompression, 0},
		{"truncated hpack", raw(frameHeaders, flagEndHeaders, 1, []byte{0x40}), CodeCompression, 0},
		{"continuation alone", raw(frameContinuation, flagEndHeaders, 1, nil), CodeProtocol, 0},
		{"frame inside a block", func(p *peer) {
			p.raw(frameHeaders, 0, 1, []byte{0x82})
			_ = p.WritePing(false, [8]byte{})
		}, CodeProtocol, 0},
		{"continuation of another stream", func(p *peer) {
			p.raw(frameHeaders, 0, 1, []byte{0x82})
			p.raw(frameContinuation, 0, 3, nil)
		}, CodeProtocol, 0},
		{"empty continuations", func(p *peer) {
			p.raw(frameHeaders, 0, 1, nil)
			for range maxContinuations + 1 {
				p.raw(frameContinuation, 0, 1, nil)
			}
		}, CodeEnhanceYourCalm, 0},
		{"block too large", func(p *peer) {
			b := p.encode(":method", "CONNECT", ":authority", "a:1", "x", strings.Repeat("\x01", 70<<10))
			p.raw(frameHeaders, 0, 1, b[:maxFrame])
			for b = b[maxFrame:]; len(b) > 0; b = b[min(len(b), maxFrame):] {
				p.raw(frameContinuation, 0, 1, b[:min(len(b), maxFrame)])
			}
		}, CodeEnhanceYourCalm, 0},
		{"block of many fields too large", func(p *peer) {
			p.raw(frameHeaders, 0, 1, p.encode(":method", "CONNECT", ":authority", "a:1"))
			for i := range 10 {
				b := p.encode("x", strings.Repeat(string(rune('a'+i)), 12<<10)+"\x01")
				p.raw(frameContinuation, 0, 1, append(b, p.encode("y", strings.Repeat("\x02", 3<<10))...))
			}
		}, CodeEnhanceYourCalm, 0},
		{"header bomb", func(p *peer) {
			// One field of 4 KiB goes into the table, then a byte each brings it back.
			b := p.encode(":method", "CONNECT", ":authority", "a:1")
			b = append(b, p.encode("x", strings.Repeat("a", 3900))...)
			p.raw(frameHeaders, flagEndHeaders, 1, append(b, bytes.Repeat([]byte{0x80 | 62}, 8000)...))
		}, noCode, CodeEnhanceYourCalm},
		{"upper-case field", func(p *peer) { p.request(1, ":method", "CONNECT", ":authority", "a:1", "Baggage", "x") }, noCode, CodeProtocol},
		{"newline in a value", func(p *peer) { p.request(1, ":method", "CONNECT", ":authority", "a:1", "baggage", "a\r\nb") }, noCode, CodeProtocol},
		{"pseudo field late", func(p *peer) { p.request(1, ":method", "CONNECT", "baggage", "x", ":authority", "a:1") }, noCode, CodeProtocol},
		{"pseudo field twice", func(p *peer) { p.request(1, ":method", "CONNECT", ":authority", "a:1", ":authority", "b:1") }, noCode, CodeProtocol},
		{"field of a connection", func(p *peer) { p.request(1, ":method", "CONNECT", ":authority", "a:1", "connection", "close") }, noCode, CodeProtocol},
		{"too many streams", func(p *peer) { p.connect(1); p.connect(3); p.connect(5) }, noCode, CodeRefusedStream},
		{"first frame not settings", nil, CodeProtocol, 0},
		{"settings on a stream", raw(frameSettings, 0, 1, nil), CodeProtocol, 0},
		{"settings of 5 bytes", raw(frameSettings, 0, 0, make([]byte, 5)), CodeFrameSize, 0},
		{"settings ack with payload", raw(frameSettings, flagAck, 0, make([]byte, 6)), CodeFrameSize, 0},
		{"enable push 2", settings(http2.SettingEnablePush, 2), CodeProtocol, 0},
		{"initial window too large", settings(http2.SettingInitialWindowSize, 1<<31), CodeFlowControl, 0},
		{"initial window overflows a stream", opened(func(p *peer) {
			p.raw(frameWindowUpdate, 0, 1, u32(maxWindow-peerWindow))
			settings(http2.SettingInitialWindowSize, peerWindow+1)(p)
		}), CodeFlowControl, 0},
		{"frame size too small", settings(http2.SettingMaxFrameSize, 16383), CodeProtocol, 0},
		{"frame size too large", settings(http2.SettingMaxFrameSize, 1<<24), CodeProtocol, 0},
		{"push promise", raw(framePushPromise, flagEndHeaders, 1, u32(2)), CodeProtocol, 0},
		{"ping on a stream", raw(framePing, 0, 1, make([]byte, 8)), CodeProtocol, 0},
		{"ping of 7 bytes", raw(framePing, 0, 0, make([]byte, 7)), CodeFrameSize, 0},
		{"goaway on a stream", raw(frameGoAway, 0, 1, make([]byte, 8)), CodeProtocol, 0},
		{"goaway too short", raw(frameGoAway, 0, 0, make([]byte, 7)), CodeFrameSize, 0},
		{"window update of 3 bytes", raw(frameWindowUpdate, 0, 0, make([]byte, 3)), CodeFrameSize, 0},
		{"window update of 0", raw(frameWindowUpdate, 0, 0, u32(0)), CodeProtocol, 0},
		{"window update of 0 on a stream", opened(raw(frameWindowUpdate, 0, 1, u32(0))), noCode, CodeProtocol},
		{"window update on idle stream", raw(frameWindowUpdate, 0, 1, u32(1)), CodeProtocol, 0},
		{"connection window overflow", raw(frameWindowUpdate, 0, 0, u32(maxWindow)), CodeFlowControl, 0},
		{"stream window overflow", opened(raw(frameWindowUpdate, 0, 1, u32(maxWindow))), noCode, CodeFlowControl},
		{"reset on stream 0", raw(frameReset, 0, 0, u32(8)), CodeProtocol, 0},
		{"reset of 3 bytes", raw(frameReset, 0, 1, make([]byte, 3)), CodeFrameSize, 0},
		{"reset on idle stream", raw(frameReset, 0, 1, u32(8)), CodeProtocol, 0},
		{"priority on stream 0", raw(framePriority, 0, 0, make([]byte, 5)), CodeProtocol, 0},
		{"priority of 4 bytes", opened(raw(framePriority, 0, 1, make([]byte, 4))), noCode, CodeFrameSize},
		{"ping flood", flood(framePing, 0, 0, make([]byte, 8)), CodeEnhanceYourCalm, 0},
		{"settings flood", flood(frameSettings, 0, 0, nil), CodeEnhanceYourCalm, 0},
		{"priority flood", flood(framePriority, 0, 1, make([]byte, 5)), CodeEnhanceYourCalm, 0},
		{"unknown flood", flood(99, 0, 1, nil), CodeEnhanceYourCalm, 0},
		{"empty data flood", opened(flood(frameData, 0, 1, nil)), CodeEnhanceYourCalm, 0},
		{"reset flood on closed", opened(func(p *peer) {
			p.raw(frameReset, 0, 1, u32(8))
			flood(frameReset, 0, 1, u32(8))(p)
		}), CodeEnhanceYourCalm, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, served := hostileServer(t, Config{MaxStreams: 2}, test.do != nil)
			if test.do == nil {
				_, _ = io.WriteString(p.conn, preface)
				_ = p.WritePing(false, [8]byte{})
			} else {
				go test.do(p)
			}
			if test.conn == noCode {
				select {
				case f := <-p.reset:
					if Code(f.ErrCode) != test.stream {
						t.Fatalf("reset with %v, want %v", f.ErrCode, test.stream)
					}
				case err := <-served:
					t.Fatalf("connection ended: %v", err)
				case <-time.After(5 * time.Second):
					t.Fatal("nothing happened")
				}
				return
			}
			select {
			case err := <-served:
				var fault *ConnError
				if !errors.As(err, &fault) || fault.Code != test.conn {
					t.Fatalf("ended by %v, want %v", err, test.conn)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("nothing happened")
			}
			if code, told := <-p.goAway; told && Code(code) != test.conn {
				t.Errorf("told %v", code)
			}
		})
	}
}

// TestHostileServer: what a client of ours must not take from its server.
func TestHostileServer(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(p *peer, stream uint32)
		conn Code
		want string // part of Open's error
	}{
		{"enable push", func(p *peer, _ uint32) {
			_ = p.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 1})
		}, CodeProtocol, "ENABLE_PUSH"},
		{"data before an answer", func(p *peer, s uint32) { p.raw(frameData, 0, s, []byte("x")) }, noCode, "PROTOCOL_ERROR"},
		{"no status", func(p *peer, s uint32) { p.request(s, "x", "y") }, noCode, "PROTOCOL_ERROR"},
		{"bad status", func(p *peer, s uint32) { p.request(s, ":status", "2000") }, noCode, "PROTOCOL_ERROR"},
		{"request for an answer", func(p *peer, s uint32) { p.connect(s) }, noCode, "PROTOCOL_ERROR"},
		{"interim answer ends", func(p *peer, s uint32) {
			p.raw(frameHeaders, flagEndHeaders|flagEndStream, s, p.encode(":status", "103"))
		}, noCode, "PROTOCOL_ERROR"},
		{"headers on another stream", func(p *peer, s uint32) { p.request(s+2, ":status", "200") }, CodeProtocol, "idle stream"},
		{"headers on even stream", func(p *peer, s uint32) { p.request(2, ":status", "200") }, CodeProtocol, "idle stream"},
		{"refused", func(p *peer, s uint32) { _ = p.WriteRSTStream(s, http2.ErrCodeRefusedStream) }, noCode, "REFUSED_STREAM"},
		{"goaway below", func(p *peer, s uint32) { _ = p.WriteGoAway(0, http2.ErrCodeNo, nil) }, noCode, "REFUSED_STREAM"},
		{"goaway with an error", func(p *peer, s uint32) { _ = p.WriteGoAway(s, http2.ErrCodeInternal, []byte("why")) }, noCode, "why"},
		{"large header list", func(p *peer, s uint32) {
			p.request(s, ":status", "200", "x", strings.Repeat("a", 10<<10), "y", strings.Repeat("b", 10<<10))
		}, noCode, "ENHANCE_YOUR_CALM"},
	} {
		t.Run(test.name, func(t *testing.T) {
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
			go func() { test.do(p, <-p.headers) }()
			_, err = client.Open(deadline(t), Request{Authority: "a:1"})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("open: %v, want %q", err, test.want)
			}
			var fault *ConnError
			if test.conn != noCode && (!errors.As(err, &fault) || fault.Code != test.conn) {
				t.Fatalf("open: %v, want %v", err, test.conn)
			}
		})
	}
}

// TestRapidReset: requests that are reset before their answer never hold more handlers than streams are allowed,
// and end the connection when they don't stop.
func TestRapidReset(t *testing.T) {
	c, s := tlsPair(t)
	block := make(chan struct{})
	running := make(chan struct{}, 1<<16)
	served := make(chan error, 1)
	server := NewServer(record.OverTLS(s), Config{MaxStreams: 8}, func(*ServerStream) {
		running <- struct{}{}
		<-block
	})
	go func() { served <- server.Serve(context.Background()) }()
	p := newPeer(c)
	go p.listen()
	_, _ = io.WriteString(c, preface)
	_ = p.WriteSettings()
	go func() {
		for i := uint32(1); ; i += 2 {
			b := appendHeaders(nil, i, p.encode(":method", "CONNECT", ":authority", "a:1"), false)
			if _, err := c.Write(appendUint32Frame(b, frameReset, i, 8)); err != nil {
				return
			}
		}
	}()
	var fault *ConnError
	if err := <-served; !errors.As(err, &fault) || fault.Code != CodeEnhanceYourCalm {
		t.Errorf("ended by %v", err)
	}
	if n := len(running); n > 8 {
		t.Errorf("%d handlers ran at once", n)
	}
	close(block)
}

// fullSocket is a connection whose peer reads nothing behind SETTINGS: no write ends before the connection does.
type fullSocket struct {
	record.Conn
	begun  bool
	closed chan struct{}
}

func (f *fullSocket) Write(b []byte) error {
	if !f.begun {
		f.begun = true
		return f.Conn.Write(b)
	}
	<-f.closed
	return net.ErrClosed
}

func (f *fullSocket) Close() error {
	close(f.closed)
	return f.Conn.Close()
}

// TestUnreadAnswers: a peer that asks and asks but reads nothing can't make answers pile up without end.
func TestUnreadAnswers(t *testing.T) {
	for _, method := range []string{"CONNECT", "GET"} { // refused by a handler, and by the reader
		t.Run(method, func(t *testing.T) {
			c, s := tlsPair(t)
			served := make(chan error, 1)
			full := &fullSocket{Conn: record.OverTLS(s), closed: make(chan struct{})}
			server := NewServer(full, Config{}, func(ss *ServerStream) { _ = ss.Refuse(401) })
			go func() { served <- server.Serve(context.Background()) }()
			t.Cleanup(func() { _ = server.Close() })
			p := newPeer(c)
			_, _ = io.WriteString(c, preface)
			_ = p.WriteSettings()
			go func() {
				block := p.encode(":method", method, ":authority", "a:1")
				var b []byte
				for i := uint32(1); ; i += 2 {
					if b = appendHeaders(b, i, block, true); len(b) < 16<<10 {
						continue
					}
					if _, err := c.Write(b); err != nil {
						return
					}
					b = b[:0]
				}
			}()
			var fault *ConnError
			select {
			case err := <-served:
				if !errors.As(err, &fault) || fault.Code != CodeEnhanceYourCalm {
					t.Errorf("ended by %v", err)
				}
			case <-time.After(5 * time.Second):
				server.conn.mu.Lock()
				t.Errorf("%d bytes wait to be read", len(*server.conn.pend()))
				server.conn.mu.Unlock()
			}
		})
	}
}

// TestWindowOfZero: a peer that grants nothing, then a little, gets exactly what it granted.
func TestWindowOfZero(t *testing.T) {
	c, s := tlsPair(t)
	client, err := NewClient(context.Background(), record.OverTLS(c), Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	p := newPeer(s)
	_, _ = io.ReadFull(s, make([]byte, len(preface)))
	_ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	frames := make(chan string, 64)
	answered := make(chan struct{})
	go func() {
		r := http2.NewFramer(nil, s)
		for {
			f, err := r.ReadFrame()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *http2.HeadersFrame:
				p.request(f.StreamID, ":status", "200")
				close(answered)
			case *http2.DataFrame:
				frames <- fmt.Sprint(len(f.Data()), f.StreamEnded())
			}
		}
	}()
	stream, err := client.Open(deadline(t), Request{Authority: "a:1"})
	if err != nil {
		t.Fatal(err)
	}
	<-answered
	go func() {
		_, _ = stream.Write(make([]byte, 30000))
		_ = stream.CloseWrite()
	}()
	for i, grant := range []uint32{1, 5000, 24999} {
		_ = p.WriteWindowUpdate(1, grant)
		want := []string{"1 false", "5000 false", "16375 false"}[i]
		if got := <-frames; got != want {
			t.Fatalf("frame %d: %s, want %s", i, got, want)
		}
	}
	if a, b := <-frames, <-frames; a != "8624 false" || b != "0 true" {
		t.Fatalf("last frames %s, %s", a, b)
	}
}

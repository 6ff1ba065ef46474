// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/warren-mesh/warren/ztunnel/record"
)

// sunk is a record.Conn that swallows what is written and yields what it was given, in the pieces asked for.
type sunk struct {
	mu      sync.Mutex
	written bytes.Buffer
	closed  bool
}

func (k *sunk) ReadBatch() ([][]byte, error) { return nil, io.EOF }
func (k *sunk) Write(b []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.written.Write(b)
	return nil
}
func (k *sunk) WriteSlots(s *record.Slots, n int) error {
	for i := range n {
		_ = k.Write(s.Plaintext(i))
	}
	return nil
}
func (k *sunk) CloseWrite() error                    { return nil }
func (k *sunk) SetDeadline(time.Time) error          { return nil }
func (k *sunk) ConnectionState() tls.ConnectionState { return tls.ConnectionState{} }
func (k *sunk) LocalAddr() net.Addr                  { return nil }
func (k *sunk) RemoteAddr() net.Addr                 { return nil }
func (k *sunk) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	return nil
}

// session is a sequence of frames a fuzzer can start from.
func session(f func(p *peer)) []byte {
	var b bytes.Buffer
	p := newPeer(struct {
		io.Reader
		io.Writer
		io.Closer
	}{nil, &b, nil})
	b.WriteString(preface)
	_ = p.WriteSettings()
	f(p)
	return b.Bytes()
}

// FuzzFrames feeds a server arbitrary bytes, whole and in pieces: it must neither panic nor say different things,
// what it answers must be frames, and what it keeps must be bounded by what was sent.
func FuzzFrames(f *testing.F) {
	f.Add(session(func(p *peer) {
		p.connect(1)
		_ = p.WriteData(1, false, []byte("hello"))
		_ = p.WriteDataPadded(1, true, []byte("world"), make([]byte, 7))
		_ = p.WritePing(false, [8]byte{1})
	}), uint8(1))
	f.Add(session(func(p *peer) {
		b := p.encode(":method", "CONNECT", ":authority", "[2001:db8::1]:80", "baggage", "a=b")
		p.raw(frameHeaders, 0, 1, b[:3])
		p.raw(frameContinuation, flagEndHeaders, 1, b[3:])
		_ = p.WriteWindowUpdate(1, 5)
		_ = p.WriteRSTStream(1, 8)
		_ = p.WriteGoAway(0, 0, nil)
	}), uint8(7))
	f.Fuzz(func(t *testing.T, in []byte, step uint8) {
		whole, wholeErr := feedServer(t, in, len(in))
		pieces, piecesErr := feedServer(t, in, int(step)+1)
		if codeOf(wholeErr) != codeOf(piecesErr) || whole != pieces {
			t.Fatalf("whole: %v, %d bytes; pieces: %v, %d bytes", wholeErr, whole, piecesErr, pieces)
		}
	})
}

// feedServer returns how many bytes applications got, and how the connection fared.
func feedServer(t *testing.T, in []byte, step int) (received int64, err error) {
	k := &sunk{}
	streams := make(chan *Stream, len(in)/9+1)
	c := newConn(k, Config{}, false)
	hold := make(chan struct{})
	c.handler = func(ss *ServerStream) {
		streams <- ss.stream
		<-hold
	}
	for p := in; len(p) > 0 && err == nil; {
		n := min(step, len(p))
		piece := bytes.Clone(p[:n])
		p = p[n:]
		err = c.reader.feed(piece)
		c.reader.endBatch()
		clear(piece) // whoever kept it reads zeros
	}
	c.mu.Lock()
	for _, s := range c.streams {
		s.in.mu.Lock()
		received += int64(s.in.queue.size)
		s.in.mu.Unlock()
	}
	c.mu.Unlock()
	if used := c.config.Budget.Used(); used > 2*int64(len(in))+int64(len(in)/9+1)*(smallChunk+largeChunk) {
		t.Fatalf("%d bytes in, %d held", len(in), used)
	}
	c.flushWait()
	_ = c.fail(err)
	close(hold)
	k.mu.Lock()
	defer k.mu.Unlock()
	r := http2.NewFramer(nil, bytes.NewReader(k.written.Bytes()))
	for {
		if _, ferr := r.ReadFrame(); ferr == io.EOF {
			return received, err
		} else if ferr != nil {
			t.Fatalf("answer is no frame: %v", ferr)
		}
	}
}

// FuzzAnswers feeds a client with two open streams arbitrary frames: no panic, and each stream ends with its
// connection.
func FuzzAnswers(f *testing.F) {
	after := len(preface)
	f.Add(session(func(p *peer) {
		p.request(1, ":status", "200", "baggage", "a=b")
		_ = p.WriteData(1, true, []byte("hello"))
		p.request(3, ":status", "503")
		_ = p.WriteRSTStream(3, 0)
	})[after:])
	f.Add(session(func(p *peer) {
		p.request(1, ":status", "103")
		_ = p.WriteGoAway(1, 0, nil)
		_ = p.WriteWindowUpdate(0, 5)
	})[after:])
	f.Fuzz(func(t *testing.T, in []byte) {
		c := newConn(&sunk{}, Config{}, true)
		c.peerMax = 2
		var streams []*Stream
		for range 2 {
			s, err := c.request(Request{Authority: "a:1"})
			if err != nil {
				t.Fatal(err)
			}
			streams = append(streams, s)
		}
		_ = c.reader.feed(in)
		c.reader.endBatch()
		c.flushWait()
		_ = c.fail(nil)
		for _, s := range streams {
			<-s.ready
			if n, err := io.Copy(io.Discard, readerOnly{s}); err == nil && !s.remoteEnded() || n > int64(len(in)) {
				t.Fatalf("stream %d: %d bytes, %v", s.id, n, err)
			}
		}
		if used := c.config.Budget.Used(); used != 0 {
			t.Fatalf("%d bytes are still held", used)
		}
	})
}

func codeOf(err error) Code {
	var fault *ConnError
	if errors.As(err, &fault) {
		return fault.Code
	}
	if err != nil {
		return noCode
	}
	return CodeNo
}

// FuzzConnect feeds a header block and checks what comes out against x/net's decoder and the rules of a request.
func FuzzConnect(f *testing.F) {
	p := newPeer(nil)
	f.Add(p.encode(":method", "CONNECT", ":authority", "10.0.0.1:80", "baggage", "k8s.namespace.name=a"))
	f.Add(p.encode(":method", "GET", ":scheme", "https", ":path", "/", ":authority", "x"))
	f.Add(p.encode(":authority", "[::1]:1", ":method", "CONNECT", "forwarded", "for=\"[::1]:2\"", "forwarded", "for=b"))
	f.Fuzz(func(t *testing.T, block []byte) {
		if len(block) > maxFrame {
			return
		}
		c := newConn(&sunk{}, Config{}, false)
		requests := make(chan Request, 1)
		c.handler = func(ss *ServerStream) { requests <- ss.Request() }
		b := appendSettings([]byte(preface), settingMaxStreams, 1)
		err := c.reader.feed(appendHeaders(b, 1, block, true))
		c.mu.Lock()
		opened := c.handlers > 0 || c.lastID == 1 && len(c.streams) > 0
		c.mu.Unlock()
		var request *Request
		if err == nil && opened {
			select {
			case r := <-requests:
				request = &r
			case <-time.After(20 * time.Millisecond): // refused by the layer
			}
		}
		fields, oracleErr := hpack.NewDecoder(4096, nil).DecodeFull(block)
		if oracleErr != nil && err == nil {
			t.Fatalf("x/net: %v, we took it", oracleErr)
		}
		if request != nil {
			checkRequest(t, *request, fields)
		}
		_ = c.fail(nil)
	})
}

func checkRequest(t *testing.T, r Request, fields []hpack.HeaderField) {
	var baggage []string
	for _, f := range fields {
		switch {
		case f.Name == ":method" && f.Value != "CONNECT",
			f.Name == ":authority" && f.Value != r.Authority,
			f.IsPseudo() && f.Name != ":method" && f.Name != ":authority",
			f.Name != strings.ToLower(f.Name), strings.ContainsAny(f.Value, "\r\n\x00"):
			t.Fatalf("accepted %q: %q", f.Name, f.Value)
		case f.Name == "baggage" && f.Value != "":
			baggage = append(baggage, f.Value)
		}
	}
	if want := strings.Join(baggage, ","); r.Authority == "" || r.Baggage != want {
		t.Fatalf("authority %q, baggage %q, want %q", r.Authority, r.Baggage, want)
	}
}

// TestFramesAgainstFramer: x/net reads back every kind of frame we write.
func TestFramesAgainstFramer(t *testing.T) {
	block := newPeer(nil).encode(":status", "200", "x", strings.Repeat("~", 40000))
	b := appendSettings(nil, settingMaxStreams, 4096, settingInitialWindowSize, streamWindow)
	b = appendHeaders(b, 3, block, true)
	b = appendFrame(b, frameData, flagEndStream, 3, []byte("data"))
	b = appendUint32Frame(b, frameWindowUpdate, 5, 77)
	b = appendUint32Frame(b, frameReset, 5, uint32(CodeCancel))
	b = appendGoAway(b, 9, CodeNo, "bye")
	r := http2.NewFramer(nil, bytes.NewReader(b))
	r.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	r.MaxHeaderListSize = 1 << 20
	var got []string
	for {
		f, err := r.ReadFrame()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, f.Header().Type.String())
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID != 3 || !f.StreamEnded() || f.PseudoValue("status") != "200" {
				t.Error(f)
			}
		case *http2.DataFrame:
			if string(f.Data()) != "data" || !f.StreamEnded() {
				t.Error(f)
			}
		case *http2.WindowUpdateFrame:
			if f.StreamID != 5 || f.Increment != 77 {
				t.Error(f)
			}
		}
	}
	if want := "SETTINGS HEADERS DATA WINDOW_UPDATE RST_STREAM GOAWAY"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if h := parseFrameHeader(append([]byte{0, 1, 2, 3, 4}, binary.BigEndian.AppendUint32(nil, 1<<31|7)...)); h != (frameHeader{258, 3, 4, 7}) {
		t.Errorf("reserved bit not ignored: %+v", h)
	}
}

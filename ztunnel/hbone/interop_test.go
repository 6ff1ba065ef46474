// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 the oracle is x/net's HTTP/2 itself, not what wraps it

package hbone

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/warren-mesh/warren/ztunnel/record"
)

// Interoperation: our client against x/net's server, our server against x/net's transport.

// foreignServer serves one connection with x/net and returns our client on it.
func foreignServer(t *testing.T, server *http2.Server, handler http.HandlerFunc) *ClientConn {
	t.Helper()
	c, s := tlsPair(t)
	go server.ServeConn(s, &http2.ServeConnOpts{Handler: handler})
	client, err := NewClient(context.Background(), record.OverTLS(c), Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// foreignClient returns an x/net client connection to our server.
func foreignClient(t *testing.T, handler func(*ServerStream)) (*http2.ClientConn, *ServerConn) {
	t.Helper()
	c, s := tlsPair(t)
	server := NewServer(record.OverTLS(s), Config{}, handler)
	go func() { _ = server.Serve(context.Background()) }()
	t.Cleanup(func() { _ = server.Close() })
	transport := &http2.Transport{}
	cc, err := transport.NewClientConn(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc, server
}

// foreignEcho is an echo for x/net that flushes.
func foreignEcho(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(200)
	w.(http.Flusher).Flush()
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Body.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

func connect(t *testing.T, cc *http2.ClientConn, authority string, body io.Reader) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(deadline(t), http.MethodConnect, "https://"+authority, body)
	if err != nil {
		t.Fatal(err)
	}
	return cc.RoundTrip(req)
}

func TestForeignServerEcho(t *testing.T) {
	client := foreignServer(t, &http2.Server{}, foreignEcho)
	for _, size := range []int{0, 1, 5000, 16 << 20} {
		s, err := client.Open(deadline(t), Request{Authority: "[2001:db8::1]:443"})
		if err != nil {
			t.Fatal(err)
		}
		sent := make(chan [32]byte, 1)
		go func() {
			sent <- pattern(t, s, 1, size)
			_ = s.CloseWrite()
		}()
		if n, got := sumOf(t, s); n != int64(size) || got != <-sent {
			t.Fatalf("size %d: %d bytes came back", size, n)
		}
	}
	eventually(t, "no streams", func() bool { return client.Streams() == 0 })
}

func TestForeignServerSeesRequest(t *testing.T) {
	want := Request{Authority: "10.0.0.1:8080", Header: Header{
		Baggage: "k8s.namespace.name=a,service.name=b", Forwarded: `for="10.1.2.3:4567";host=x.y`,
		TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", Other: []Field{{"x-forwarded-network", "n1"}},
	}}
	seen := make(chan *http.Request, 2)
	client := foreignServer(t, &http2.Server{}, func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		w.Header().Set("baggage", "service.name=answer")
		w.WriteHeader(200)
	})
	for range 2 { // the second block uses the table
		s, err := client.Open(deadline(t), want)
		if err != nil {
			t.Fatal(err)
		}
		r := <-seen
		if r.Method != "CONNECT" || r.Host != want.Authority || r.Header.Get("baggage") != want.Baggage ||
			r.Header.Get("forwarded") != want.Forwarded || r.Header.Get("traceparent") != want.TraceParent ||
			r.Header.Get("x-forwarded-network") != "n1" {
			t.Errorf("server saw %v %v %v", r.Method, r.Host, r.Header)
		}
		if h := s.Header(); h.Baggage != "service.name=answer" {
			t.Errorf("answer's header %+v", h)
		}
		s.Reset(CodeCancel)
	}
}

func TestForeignServerRefuses(t *testing.T) {
	for _, status := range []int{400, 401, 503, 204, 302} {
		client := foreignServer(t, &http2.Server{}, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) })
		s, err := client.Open(deadline(t), Request{Authority: "a:1"})
		var refused *StatusError
		if s != nil || !errors.As(err, &refused) || refused.Status != status {
			t.Errorf("status %d: %v", status, err)
		}
		eventually(t, "no streams", func() bool { return client.Streams() == 0 })
	}
}

func TestForeignServerAborts(t *testing.T) {
	client := foreignServer(t, &http2.Server{}, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		_, _ = io.ReadFull(r.Body, make([]byte, 10))
		panic(http.ErrAbortHandler)
	})
	s, err := client.Open(deadline(t), Request{Authority: "a:1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	var reset *ResetError
	if _, err := s.Read(make([]byte, 1)); !errors.As(err, &reset) || reset.Code != CodeInternal {
		t.Fatalf("read: %v", err)
	}
}

func TestForeignServerLimitsStreams(t *testing.T) {
	client := foreignServer(t, &http2.Server{MaxConcurrentStreams: 2}, foreignEcho)
	var open []*Stream
	for range 2 {
		s, err := client.Open(deadline(t), Request{Authority: "a:1"})
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, s)
	}
	if _, err := client.Open(deadline(t), Request{Authority: "a:1"}); err != ErrFull {
		t.Fatalf("third stream: %v", err)
	}
	open[0].Reset(CodeCancel)
	if _, err := client.Open(deadline(t), Request{Authority: "a:1"}); err != nil {
		t.Fatalf("after one ended: %v", err)
	}
}

func TestForeignServerGoesAway(t *testing.T) {
	c, s := tlsPair(t)
	base := &http.Server{}
	h2 := &http2.Server{}
	if err := http2.ConfigureServer(base, h2); err != nil {
		t.Fatal(err)
	}
	go h2.ServeConn(s, &http2.ServeConnOpts{BaseConfig: base, Handler: http.HandlerFunc(foreignEcho)})
	client, err := NewClient(context.Background(), record.OverTLS(c), Config{})
	if err != nil {
		t.Fatal(err)
	}
	live, err := client.Open(deadline(t), Request{Authority: "a:1"})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = base.Shutdown(context.Background()) }()
	eventually(t, "going away", func() bool { return !client.conn.hasRoom() })
	if _, err := client.Open(deadline(t), Request{Authority: "a:1"}); err != ErrGoingAway {
		t.Fatalf("open: %v", err)
	}
	_, _ = live.Write([]byte("still here"))
	_ = live.CloseWrite()
	if got, err := io.ReadAll(live); err != nil || string(got) != "still here" {
		t.Fatalf("live stream: %q, %v", got, err)
	}
	<-client.Done()
}

func TestForeignClientEcho(t *testing.T) {
	requests := make(chan Request, 8)
	cc, server := foreignClient(t, func(ss *ServerStream) {
		requests <- ss.Request()
		if s, err := ss.Accept(Header{Baggage: "service.name=srv"}); err == nil {
			echo(s)
		}
	})
	for _, size := range []int{0, 1, 5000, 16 << 20} {
		pr, pw := io.Pipe()
		sent := make(chan [32]byte, 1)
		go func() {
			sent <- pattern(t, pw, 2, size)
			_ = pw.Close()
		}()
		resp, err := connect(t, cc, "10.0.0.9:81", pr)
		if err != nil || resp.StatusCode != 200 || resp.Header.Get("baggage") != "service.name=srv" {
			t.Fatal(resp, err)
		}
		if n, got := sumOf(t, resp.Body); n != int64(size) || got != <-sent {
			t.Fatalf("size %d: %d bytes came back", size, n)
		}
		if r := <-requests; r.Authority != "10.0.0.9:81" {
			t.Errorf("authority %q", r.Authority)
		}
	}
	eventually(t, "no streams", func() bool { return server.Streams() == 0 })
}

func TestForeignClientRefused(t *testing.T) {
	for _, status := range []int{400, 401, 503} {
		cc, server := foreignClient(t, func(ss *ServerStream) { _ = ss.Refuse(status) })
		pr, pw := io.Pipe()
		resp, err := connect(t, cc, "a:1", pr)
		if err != nil || resp.StatusCode != status {
			t.Fatalf("status %d: %v %v", status, resp, err)
		}
		_ = pw.Close()
		_ = resp.Body.Close()
		eventually(t, "no streams", func() bool { return server.Streams() == 0 })
	}
	cc, _ := foreignClient(t, func(ss *ServerStream) {})
	if resp, err := connect(t, cc, "a:1", nil); err != nil || resp.StatusCode != 503 {
		t.Fatalf("unanswered: %v %v", resp, err)
	}
	req, _ := http.NewRequest(http.MethodPost, "https://a:1/x", strings.NewReader("body"))
	if resp, err := cc.RoundTrip(req); err != nil || resp.StatusCode != 400 {
		t.Fatalf("POST: %v %v", resp, err)
	}
}

func TestForeignClientHalfCloseByServer(t *testing.T) {
	got := make(chan string, 1)
	cc, _ := foreignClient(t, accepting(func(s *Stream) {
		_, _ = s.Write([]byte("first"))
		_ = s.CloseWrite()
		b, err := io.ReadAll(s)
		if err != nil {
			t.Error(err)
		}
		got <- string(b)
	}))
	pr, pw := io.Pipe()
	resp, err := connect(t, cc, "a:1", pr)
	if err != nil {
		t.Fatal(err)
	}
	go func() { // x/net ends the request once the answer's body was read to its end
		_, _ = pw.Write([]byte("then"))
		_ = pw.Close()
	}()
	if s := <-got; s != "then" {
		t.Errorf("server read %q", s)
	}
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "first" {
		t.Fatalf("%q %v", b, err)
	}
}

func TestForeignClientDrained(t *testing.T) {
	cc, server := foreignClient(t, accepting(echo))
	pr, pw := io.Pipe()
	resp, err := connect(t, cc, "a:1", pr)
	if err != nil {
		t.Fatal(err)
	}
	server.GoAway()
	eventually(t, "client stops asking", func() bool { return !cc.CanTakeNewRequest() })
	go func() {
		_, _ = pw.Write([]byte("still here"))
		_ = pw.Close()
	}()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "still here" {
		t.Fatalf("%q %v", b, err)
	}
	<-server.Done()
}

func TestForeignClientCancels(t *testing.T) {
	ended := make(chan error, 1)
	cc, _ := foreignClient(t, accepting(func(s *Stream) {
		_, err := io.Copy(io.Discard, readerOnly{s})
		ended <- err
	}))
	pr, _ := io.Pipe()
	resp, err := connect(t, cc, "a:1", pr)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	var reset *ResetError
	if err := <-ended; !errors.As(err, &reset) || reset.Code != CodeCancel {
		t.Fatalf("server's read: %v", err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestDecodeRefusesWhatItDoesNotKnow(t *testing.T) {
	for name, tt := range map[string]struct {
		datagram string
		want     error
	}{
		"empty":         {"", ErrMalform},
		"short":         {"\x01\x01\x00", ErrMalform},
		"version":       {"\x02\x01\x00\x00{}", ErrVersion},
		"type 0":        {"\x01\x00\x00\x00{}", ErrType},
		"type between":  {"\x01\x0a\x00\x00{}", ErrType},
		"type beyond":   {"\x01\x1c\x00\x00{}", ErrType},
		"type last":     {"\x01\x1b\x00\x00{}", nil},
		"reserved bits": {"\x01\x01\x00\x01{}", ErrMalform},
		"too long":      {"\x01\x01\x00\x00" + strings.Repeat(" ", MaxBody+1), ErrTooLong},
		"good":          {"\x01\x01\x00\x00{}", nil},
		"longest":       {"\x01\x01\x00\x00" + strings.Repeat(" ", MaxBody), nil},
	} {
		if _, err := Decode([]byte(tt.datagram)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

func TestBodyIsExact(t *testing.T) {
	for name, tt := range map[string]struct {
		body string
		good bool
	}{
		"good":          {`{"pod":"a","count":3}`, true},
		"unknown field": {`{"pod":"a","count":3,"uid":0}`, false},
		"bytes behind":  {`{"pod":"a","count":3}{}`, false},
		"wrong type":    {`{"pod":1}`, false},
		"cut":           {`{"pod":"a"`, false},
		"nothing":       {``, false},
	} {
		var r SocketsRequest
		err := Message{Type: TypeSocketsRequest, Body: []byte(tt.body)}.Into(&r)
		if (err == nil) != tt.good {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && !errors.Is(err, ErrMalform) {
			t.Errorf("%s: %v is not ErrMalform", name, err)
		}
	}
}

func TestEncodeBoundsTheBody(t *testing.T) {
	if _, err := Encode(TypeFile, NameReply{Data: bytes.Repeat([]byte("x"), MaxBody)}); !errors.Is(err, ErrTooLong) {
		t.Errorf("too long a file: %v", err)
	}
}

func TestAddrPortIsTheKernelsLayout(t *testing.T) {
	for _, tt := range []struct {
		addr string
		want string
	}{
		{"10.1.2.3:8080", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x01\x02\x03\x1f\x90\x00\x00"},
		{"[fd00::1]:443", "\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x01\xbb\x00\x00"},
	} {
		a := netip.MustParseAddrPort(tt.addr)
		b := EncodeAddrPort(a)
		if string(b[:]) != tt.want {
			t.Errorf("%s: % x, want % x", tt.addr, b, tt.want)
		}
		back, err := DecodeAddrPort(b[:])
		if err != nil || back != a {
			t.Errorf("%s came back as %v, %v", tt.addr, back, err)
		}
	}
	mapped := netip.MustParseAddrPort("[::ffff:10.1.2.3]:1")
	b := EncodeAddrPort(mapped)
	if back, err := DecodeAddrPort(b[:]); err != nil || back != netip.MustParseAddrPort("10.1.2.3:1") {
		t.Errorf("v4-mapped came back as %v, %v", back, err)
	}
	for name, bad := range map[string][]byte{"short": b[:19], "long": append(b[:], 0), "no port": make([]byte, 20), "nothing": nil} {
		if a, err := DecodeAddrPort(bad); err == nil {
			t.Errorf("%s: decoded to %v", name, a)
		}
	}
}

// FuzzDecode feeds the decoder what a stranger on the socket could send: it must answer with a typed error or
// with a message that encodes to the same meaning.
func FuzzDecode(f *testing.F) {
	for t, body := range map[Type]any{
		TypeHello: Hello{Role: "agent"}, TypeCaptureUpdate: CaptureUpdate{Capture{UID: "u", Addresses: []netip.Addr{netip.MustParseAddr("::1")}}},
		TypeSocketsRequest: SocketsRequest{Pod: "u", Count: 3}, TypeListener: ListenerMessage{Pod: "u", Kind: HBONE, Cookie: 7},
		TypeFile: NameReply{ID: 1, Data: []byte("x")}, TypeSettings: Settings{Exceptions: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Drain: time.Second},
		TypeCaptureState: State{UID: "u"}, TypeStats: Stats{Reasons: map[string]uint64{"A": 1}},
	} {
		b, err := Encode(t, body)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{Version, byte(TypeHello), 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			for _, known := range []error{ErrVersion, ErrType, ErrTooLong, ErrMalform} {
				if errors.Is(err, known) {
					return
				}
			}
			t.Fatalf("untyped error %v", err)
		}
		for _, body := range []any{
			new(Hello), new(CaptureUpdate), new(CaptureDelete), new(Settings), new(Request), new(State), new(Stats),
			new(ListenerMessage), new(SocketsRequest), new(Sockets), new(PodMessage), new(NameRequest), new(NameReply),
		} {
			if err := m.Into(body); err != nil {
				if !errors.Is(err, ErrMalform) {
					t.Fatalf("untyped error %v", err)
				}
				continue
			}
			if _, err := Encode(m.Type, body); err != nil && !errors.Is(err, ErrTooLong) {
				t.Fatalf("what was decoded does not encode: %v", err)
			}
		}
	})
}

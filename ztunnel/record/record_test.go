// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func config(t *testing.T, client bool) *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13,
		InsecureSkipVerify: client, DynamicRecordSizingDisabled: true, SessionTicketsDisabled: true,
	}
}

// tap notes what is written to the socket below.
type tap struct {
	net.Conn
	mu     sync.Mutex
	writes [][]byte
}

func (c *tap) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.writes = append(c.writes, bytes.Clone(p))
	c.mu.Unlock()
	return c.Conn.Write(p)
}

// pair returns a client and a server; wrap is put around the client's and the server's TCP connections.
func pair(t *testing.T, wrap func(net.Conn) net.Conn) (client, server *tls.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	client, server = tls.Client(wrap(a), config(t, true)), tls.Server(wrap(b), config(t, false))
	failed := make(chan error, 1)
	go func() { failed <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-failed); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func plain(c net.Conn) net.Conn  { return c }
func tapped(c net.Conn) net.Conn { return Buffered(&tap{Conn: c}) } // hides the descriptor, too

var wraps = []struct {
	name string
	wrap func(net.Conn) net.Conn
}{{"buffered", Buffered}, {"buffered without descriptor", tapped}, {"plain", plain}}

// fill puts n bytes of payload into slots and returns the plaintext that should arrive.
func fill(s *Slots, n int, seed byte) (count int, want []byte) {
	for ; n > 0; count++ {
		k := min(n, MaxPayload)
		p := s.Payload(count)[:k]
		for i := range p {
			p[i] = seed + byte(i*7+count)
		}
		copy(s.Frame(count, k), []byte{byte(k >> 16), byte(k >> 8), byte(k), 0, 0, 0, 0, 0, seed})
		want = append(want, s.Plaintext(count)...)
		n -= k
	}
	return count, want
}

func TestBytesArriveExactly(t *testing.T) {
	for _, test := range wraps {
		t.Run(test.name, func(t *testing.T) {
			c, s := pair(t, test.wrap)
			from, to := OverTLS(c), OverTLS(s)
			want := sha256.New()
			var received atomic.Int64
			var writing sync.WaitGroup
			sizes := []int{1, MaxPayload, MaxPayload + 1, 5 * MaxPayload, MaxSlots * MaxPayload, 100}
			writing.Go(func() {
				sent := int64(0)
				for round := range 4 {
					for i, n := range sizes {
						slots := GetSlots((n + MaxPayload - 1) / MaxPayload)
						count, frames := fill(slots, n, byte(round*16+i))
						want.Write(frames)
						sent += int64(len(frames))
						if err := from.WriteSlots(slots, count); err != nil {
							t.Error(err)
						}
						slots.Put()
						small := bytes.Repeat([]byte{byte(i)}, 40000*i)
						want.Write(small)
						sent += int64(len(small))
						if err := from.Write(small); err != nil && i > 0 {
							t.Error(err)
						}
					}
				}
				for received.Load() < sent { // Close has little patience for a full socket
					time.Sleep(time.Millisecond)
				}
				_ = from.Close()
			})
			got := sha256.New()
			for {
				batch, err := to.ReadBatch()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range batch {
					if len(p) == 0 {
						t.Fatal("empty piece")
					}
					got.Write(p)
					received.Add(int64(len(p)))
				}
			}
			writing.Wait()
			if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
				t.Fatal("not the same bytes")
			}
		})
	}
}

// TestOneFrameOneRecord: every slot leaves as one record, and a batch of slots as one write.
func TestOneFrameOneRecord(t *testing.T) {
	var taps []*tap
	c, _ := pair(t, func(c net.Conn) net.Conn {
		taps = append(taps, &tap{Conn: c})
		return Buffered(taps[len(taps)-1])
	})
	from := OverTLS(c)
	taps[0].writes = nil
	slots := GetSlots(3)
	defer slots.Put()
	count, _ := fill(slots, 2*MaxPayload+100, 1)
	if err := from.WriteSlots(slots, count); err != nil {
		t.Fatal(err)
	}
	if len(taps[0].writes) != 1 {
		t.Fatalf("%d writes", len(taps[0].writes))
	}
	var sizes []int
	for b := taps[0].writes[0]; len(b) > 0; {
		n := int(binary.BigEndian.Uint16(b[3:]))
		sizes = append(sizes, n)
		b = b[5+n:]
	}
	want := []int{MaxPlaintext + TrailerSize, MaxPlaintext + TrailerSize, FrameHeaderSize + 100 + TrailerSize}
	if len(sizes) != 3 || [3]int(sizes) != [3]int(want) {
		t.Fatalf("records of %v, want %v", sizes, want)
	}
}

// TestBatches: several records that are at hand come in one batch, and an idle connection holds no buffer.
func TestBatches(t *testing.T) {
	c, s := pair(t, Buffered)
	from, to := OverTLS(c), OverTLS(s).(*overTLS)
	slots := GetSlots(4)
	count, want := fill(slots, 4*MaxPayload, 1)
	if err := from.WriteSlots(slots, count); err != nil {
		t.Fatal(err)
	}
	slots.Put()
	got, batches := 0, 0
	for got < len(want) {
		batch, err := to.ReadBatch()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range batch {
			got += len(p)
		}
		batches++
	}
	if batches >= 4 {
		t.Errorf("%d records took %d batches", count, batches)
	}
	if to.sock.buf != nil {
		t.Error("a read buffer is held with nothing in it")
	}
}

// TestEnds: an orderly end is io.EOF, a cut is not, and a closed Conn wakes its reader.
func TestEnds(t *testing.T) {
	for _, test := range wraps[:2] {
		t.Run(test.name, func(t *testing.T) {
			c, s := pair(t, test.wrap)
			from, to := OverTLS(c), OverTLS(s)
			if err := errors.Join(from.Write([]byte("last")), from.CloseWrite()); err != nil {
				t.Fatal(err)
			}
			eventuallyBuffered(to.(*overTLS).sock)
			if batch, err := to.ReadBatch(); err != nil || string(batch[0]) != "last" {
				t.Errorf("%q %v", batch, err)
			}
			if _, err := to.ReadBatch(); err != io.EOF { // though no FIN came
				t.Errorf("after close_notify: %v", err)
			}
			if err := to.Write([]byte("back")); err != nil {
				t.Error(err)
			}
			if batch, err := from.ReadBatch(); err != nil || string(batch[0]) != "back" {
				t.Errorf("after CloseWrite: %q %v", batch, err)
			}
			_ = from.Close()
			c, s = pair(t, test.wrap)
			_ = Underlying(c).Close()
			if _, err := OverTLS(s).ReadBatch(); err == nil || err == io.EOF {
				t.Errorf("after a cut: %v", err)
			}
			_, s = pair(t, test.wrap)
			own := OverTLS(s)
			ended := make(chan error)
			go func() {
				_, err := own.ReadBatch()
				ended <- err
			}()
			_ = own.Close()
			_ = own.Close()
			if err := <-ended; err == nil {
				t.Error("reader not woken")
			}
		})
	}
}

// eventuallyBuffered waits until both the last bytes and close_notify are at hand.
func eventuallyBuffered(s *socket) {
	for s.w-s.r < 2*HeaderSize+4+2+2*TrailerSize && s.more() == nil {
	}
}

// TestCloseDoesNotWait: a peer that never reads holds up neither Close nor, after it, the writer.
func TestCloseDoesNotWait(t *testing.T) {
	c, _ := pair(t, Buffered)
	from := OverTLS(c)
	failed := make(chan error)
	go func() {
		block := make([]byte, 1<<20)
		for {
			if err := from.Write(block); err != nil {
				failed <- err
				return
			}
		}
	}()
	for sock := from.(*overTLS).sock; sock.tryBegin(); time.Sleep(time.Millisecond) {
		_ = sock.flush() // until the writer is stuck
	}
	closed := make(chan struct{})
	go func() {
		_ = from.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
		t.Fatal("Close waits")
	}
	if err := <-failed; err == nil {
		t.Fatal("write succeeded")
	}
	if err := from.Write([]byte("x")); err == nil {
		t.Fatal("write after Close succeeded")
	}
}

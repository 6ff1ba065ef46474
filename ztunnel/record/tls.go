// SPDX-License-Identifier: Apache-2.0

package record

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"time"
)

// plainSize is how many decrypted bytes one batch brings at most.
const plainSize = readSize

var plainPool = sync.Pool{New: func() any { b := make([]byte, plainSize); return &b }}

// overTLS is the Conn whose records are crypto/tls's.
type overTLS struct {
	tls   *tls.Conn
	sock  *socket // nil if Buffered did not wrap the connection below
	buf   *[]byte // last batch; pooled
	batch [1][]byte
	ended error // came behind the bytes of the last batch
	close sync.Once
}

// OverTLS returns a Conn over a *tls.Conn whose handshake is done and which nobody else uses from now on. Its
// tls.Config should set DynamicRecordSizingDisabled, or the first records are small. If the connection below is
// one of Buffered, several records share a system call; otherwise each record takes its own.
func OverTLS(c *tls.Conn) Conn {
	o := &overTLS{tls: c}
	if s, ok := c.NetConn().(*socket); ok {
		o.sock = s
		s.startGathering()
	}
	return o
}

func (o *overTLS) ReadBatch() ([][]byte, error) {
	o.releaseBatch()
	if o.ended != nil {
		return nil, o.ended
	}
	if o.sock != nil {
		// Waiting here rather than in crypto/tls means waiting without a buffer for plaintext.
		if err := o.sock.awaitRecord(); err != nil {
			return nil, err
		}
	}
	o.buf = plainPool.Get().(*[]byte)
	buf, n := *o.buf, 0
	for {
		k, err := o.tls.Read(buf[n:])
		n += k
		if err != nil && n == 0 {
			o.releaseBatch()
			return nil, err
		}
		o.ended = err
		if err != nil || o.sock == nil || len(buf)-n < MaxPlaintext || !o.sock.fullRecord() {
			break
		}
	}
	if n == 0 {
		o.releaseBatch()
		return nil, io.ErrNoProgress
	}
	o.batch[0] = buf[:n]
	return o.batch[:], nil
}

func (o *overTLS) releaseBatch() {
	if o.buf != nil {
		plainPool.Put(o.buf)
		o.buf, o.batch[0] = nil, nil
	}
}

func (o *overTLS) Write(frames []byte) error {
	if o.sock == nil {
		_, err := o.tls.Write(frames)
		return err
	}
	o.sock.begin()
	_, err := o.tls.Write(frames)
	if ferr := o.sock.flush(); err == nil {
		err = ferr
	}
	return err
}

func (o *overTLS) WriteSlots(s *Slots, n int) error {
	if o.sock != nil {
		o.sock.begin()
		o.sock.reserve(n)
	}
	var err error
	for i := 0; i < n && err == nil; i++ {
		_, err = o.tls.Write(s.Plaintext(i))
	}
	if o.sock != nil {
		if ferr := o.sock.flush(); err == nil {
			err = ferr
		}
	}
	return err
}

func (o *overTLS) SetDeadline(t time.Time) error        { return o.tls.NetConn().SetDeadline(t) }
func (o *overTLS) ConnectionState() tls.ConnectionState { return o.tls.ConnectionState() }
func (o *overTLS) LocalAddr() net.Addr                  { return o.tls.LocalAddr() }
func (o *overTLS) RemoteAddr() net.Addr                 { return o.tls.RemoteAddr() }

func (o *overTLS) CloseWrite() error {
	if o.sock == nil {
		return o.tls.CloseWrite()
	}
	o.sock.begin()
	err := o.tls.CloseWrite() // leaves a write deadline in the past
	_ = o.sock.SetWriteDeadline(time.Time{})
	if ferr := o.sock.flush(); err == nil {
		err = ferr
	}
	return err
}

// Close says farewell only if no write is under way: a peer that doesn't read must not hold up the end.
func (o *overTLS) Close() error {
	var err error
	o.close.Do(func() {
		below := o.tls.NetConn()
		if o.sock == nil {
			_ = below.SetDeadline(time.Now().Add(farewell))
			_ = o.tls.CloseWrite()
		} else if o.sock.tryBegin() {
			_ = o.tls.CloseWrite() // leaves a write deadline in the past
			_ = below.SetDeadline(time.Now().Add(farewell))
			_ = o.sock.flush()
		}
		err = below.Close()
	})
	return err
}

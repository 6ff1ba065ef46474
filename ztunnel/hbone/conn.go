// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/warren-mesh/warren/ztunnel/record"
)

// conn is one HTTP/2 connection in either role.
type conn struct {
	records record.Conn
	config  Config
	client  bool
	handler func(*ServerStream) // server
	changed func()              // client, of the pool: streams ended or the connection left service
	done    chan struct{}
	settled chan struct{} // closed when the peer's SETTINGS are known

	reader reader // of the reading goroutine alone

	// writing is the token to use records for writing. Whoever gives it back looks at pending once more, so a
	// frame appended while it was taken is never left behind.
	writing sync.Mutex

	mu          sync.Mutex
	pending     *[]byte // frames that wait to be written; pooled, nil when none
	replies     int     // of them, answers to what the peer sent
	streams     map[uint32]*Stream
	handlers    int // server: handlers that have not returned
	nextID      uint32
	lastID      uint32 // highest stream the peer opened
	sendWindow  int64
	peerInitial int64
	peerMax     uint32
	peerLimited bool    // it named a number
	waiters     waiters // want sendWindow or their own
	err         error
	away        bool // GOAWAY received, or sent: no new streams of ours
	awaySent    bool
	final       bool // the second GOAWAY is out: later streams are refused
	started     bool
	awayAtStart bool // goAway came before start
	finished    bool // drained: this side is ending
	mute        bool // it has ended: nothing may be written
	stray       int64
	strayHeads  int
	encoder     *hpack.Encoder
	block       bytes.Buffer

	rtt      atomic.Int64 // shortest round trip seen, in nanoseconds
	heard    atomic.Bool  // something arrived since the last look
	pinged   time.Time    // under mu; zero if no PING is out
	settingT time.Time    // under mu; when SETTINGS went out
	timer    *time.Timer
	expiry   *time.Timer // when the peer's certificate ends; nil without one
}

func newConn(rc record.Conn, config Config, client bool) *conn {
	c := &conn{
		records: rc, config: config.withDefaults(client), client: client,
		done: make(chan struct{}), settled: make(chan struct{}),
		streams: map[uint32]*Stream{}, nextID: 1,
		// One stream until the peer has spoken: it might allow no more.
		sendWindow: peerWindow, peerInitial: peerWindow, peerMax: 1,
	}
	c.encoder = hpack.NewEncoder(&c.block)
	c.reader.init(c)
	return c
}

// start sends what every connection begins with.
func (c *conn) start() {
	c.mu.Lock()
	b := c.pend()
	if c.client {
		*b = append(*b, preface...)
		*b = appendSettings(*b, settingEnablePush, 0, settingInitialWindowSize, streamWindow,
			settingMaxHeaderListSize, uint32(c.config.HeaderLimit))
	} else {
		*b = appendSettings(*b, settingMaxStreams, c.config.MaxStreams, settingInitialWindowSize, streamWindow,
			settingMaxHeaderListSize, uint32(c.config.HeaderLimit))
	}
	*b = appendUint32Frame(*b, frameWindowUpdate, 0, connWindow-peerWindow)
	c.settingT = time.Now()
	c.timer = time.AfterFunc(c.config.PingInterval, c.keepalive)
	c.goAwayAtExpiry()
	c.started = true
	away := c.awayAtStart
	c.mu.Unlock()
	c.flush()
	if away {
		c.goAway()
	}
}

// run reads until the connection ends, and returns why.
func (c *conn) run() error {
	var err error
	for err == nil {
		var batch [][]byte
		if batch, err = c.records.ReadBatch(); err != nil {
			break
		}
		c.heard.Store(true)
		for _, p := range batch {
			if err = c.reader.feed(p); err != nil {
				break
			}
		}
		if over := c.reader.endBatch(); err == nil {
			err = over
		}
	}
	return c.fail(c.inOrder(err))
}

// inOrder finds out whether a connection that was read to its end had anything left to lose.
func (c *conn) inOrder(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.finished:
		return errDrained // both sides end at once, and the last words may cross
	case errors.Is(err, io.EOF) && len(c.streams) == 0:
		return errLeft
	}
	return err
}

// fail ends the connection and everything on it; only the first cause counts, and is returned.
func (c *conn) fail(cause error) error {
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return c.err
	}
	c.err = lost(cause)
	for _, t := range []*time.Timer{c.timer, c.expiry} {
		if t != nil {
			t.Stop()
		}
	}
	streams := make([]*Stream, 0, len(c.streams))
	for _, s := range c.streams {
		streams = append(streams, s)
	}
	c.mu.Unlock()
	var fault *ConnError
	if errors.As(cause, &fault) {
		c.sayWhy(fault)
	}
	_ = c.records.Close()
	for _, s := range streams {
		c.abort(s, c.err)
	}
	c.mu.Lock()
	c.dropPending()
	c.mu.Unlock()
	close(c.done)
	c.notify()
	return c.err
}

// sayWhy tells a faulty peer what it did, if that needs little patience.
func (c *conn) sayWhy(fault *ConnError) {
	if !c.writing.TryLock() {
		return
	}
	defer c.writing.Unlock()
	_ = c.records.SetDeadline(time.Now().Add(100 * time.Millisecond))
	c.mu.Lock()
	b := appendGoAway(nil, c.lastID, fault.Code, fault.Cause)
	c.mu.Unlock()
	_ = c.records.Write(b)
}

func (c *conn) notify() {
	if c.changed != nil {
		c.changed()
	}
}

func (c *conn) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.streams)
}

// end translates why a connection ended into what its owner is told: nil if it was in order.
func end(err error) error {
	if errors.Is(err, errDrained) || errors.Is(err, errLeft) {
		return nil
	}
	return err
}

// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"encoding/binary"
	"time"
)

func (r *reader) onSettings(h frameHeader, b []byte) error {
	c := r.conn
	if h.stream != 0 {
		return connError(CodeProtocol, "SETTINGS on a stream")
	}
	if h.has(flagAck) {
		if len(b) > 0 {
			return connError(CodeFrameSize, "SETTINGS acknowledgement with a payload")
		}
		c.mu.Lock()
		if !c.settingT.IsZero() {
			c.sampleRTT(time.Since(c.settingT))
			c.settingT = time.Time{}
		}
		c.mu.Unlock()
		return r.flood.draw("SETTINGS")
	}
	if len(b)%6 != 0 {
		return connError(CodeFrameSize, "SETTINGS of %d bytes", len(b))
	}
	c.mu.Lock()
	initial, err := c.peerInitial, error(nil)
	for ; len(b) > 0 && err == nil; b = b[6:] {
		err = c.setting(binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:]))
	}
	if err == nil {
		err = c.shiftWindows(c.peerInitial - initial)
	}
	if err != nil {
		c.mu.Unlock()
		return err
	}
	first := false
	select {
	case <-c.settled:
	default:
		first = true
		if !c.peerLimited {
			c.peerMax = maxID
		}
		close(c.settled)
	}
	*c.reply() = appendFrame(*c.pend(), frameSettings, flagAck, 0, nil)
	c.wakeWriters()
	c.mu.Unlock()
	if first {
		c.notify()
		return nil
	}
	return r.flood.draw("SETTINGS")
}

// setting applies one of the peer's settings; mu is held.
func (c *conn) setting(id uint16, v uint32) error {
	switch id {
	case settingHeaderTableSize:
		c.encoder.SetMaxDynamicTableSizeLimit(min(v, 4096))
		c.encoder.SetMaxDynamicTableSize(min(v, 4096))
	case settingEnablePush:
		if v > 1 || v == 1 && c.client {
			return connError(CodeProtocol, "ENABLE_PUSH is %d", v)
		}
	case settingMaxStreams:
		c.peerMax, c.peerLimited = v, true
	case settingInitialWindowSize:
		if v > maxWindow {
			return connError(CodeFlowControl, "INITIAL_WINDOW_SIZE is %d", v)
		}
		c.peerInitial = int64(v)
	case settingMaxFrameSize:
		if v < maxFrame || v > 1<<24-1 {
			return connError(CodeProtocol, "MAX_FRAME_SIZE is %d", v)
		}
	}
	return nil
}

// shiftWindows applies a change of INITIAL_WINDOW_SIZE to the open streams, once for each SETTINGS frame: thousands of
// settings fit into one. mu is held.
func (c *conn) shiftWindows(delta int64) error {
	if delta == 0 {
		return nil
	}
	for _, s := range c.streams {
		if s.sendWindow += delta; s.sendWindow > maxWindow {
			return connError(CodeFlowControl, "INITIAL_WINDOW_SIZE overflows stream %d", s.id)
		}
	}
	return nil
}

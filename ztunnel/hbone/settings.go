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
	for ; len(b) > 0; b = b[6:] {
		if err := c.setting(binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:])); err != nil {
			c.mu.Unlock()
			return err
		}
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
	*c.pend() = appendFrame(*c.pend(), frameSettings, flagAck, 0, nil)
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
		delta := int64(v) - c.peerInitial
		c.peerInitial = int64(v)
		for _, s := range c.streams {
			if s.sendWindow += delta; s.sendWindow > maxWindow {
				return connError(CodeFlowControl, "INITIAL_WINDOW_SIZE overflows stream %d", s.id)
			}
		}
	case settingMaxFrameSize:
		if v < maxFrame || v > 1<<24-1 {
			return connError(CodeProtocol, "MAX_FRAME_SIZE is %d", v)
		}
	}
	return nil
}

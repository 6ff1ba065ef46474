// SPDX-License-Identifier: Apache-2.0

package hbone

// A peer may send frames that cost it nothing and bring us nothing: PING, SETTINGS, empty DATA, PRIORITY, unknown
// types, resets of requests we have not answered, streams beyond its number. They draw on a bucket that an honest
// peer never empties.
const (
	floodBurst  = 10000
	floodRefill = 1000 // a second
)

// flood is the bucket of one connection, used by its reader alone.
type flood struct {
	spent int64
	last  int64 // monotonic nanoseconds; set when the connection begins
}

// earn makes up for one frame: a peer that sends payload may also ask for signs of life.
func (f *flood) earn() {
	if f.spent > 0 {
		f.spent--
	}
}

func (f *flood) draw(what string) error {
	f.spent++
	if f.spent < floodBurst {
		return nil
	}
	now := monotonic()
	f.spent -= min(f.spent, (now-f.last)/1e6*floodRefill/1e3)
	f.last = now
	if f.spent >= floodBurst {
		return connError(CodeEnhanceYourCalm, "too many frames, last %s", what)
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"bytes"
	"maps"
	"slices"
	"testing"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// An agent that is being replaced connects anew, and does not know what the CNI plugin announced to its successor.
func TestCompleteListOfOneAgentLeavesAnothersPods(t *testing.T) {
	b := idleBroker(t, &fullDatapath{}, &bytes.Buffer{})
	connect := func(uids ...string) *agentConn {
		a := &agentConn{outbox: newOutbox(nil), b: b, sent: map[string]bool{}}
		b.agents[a] = true
		for _, uid := range uids {
			a.sent[uid] = true
			b.pods[uid] = &pod{want: wire.Capture{UID: uid}}
		}
		return a
	}
	expect := func(when string, want ...string) {
		t.Helper()
		if got := slices.Sorted(maps.Keys(b.pods)); !slices.Equal(got, want) {
			t.Errorf("%s: pods %v, want %v", when, got, want)
		}
	}
	b.pods["nobodys"] = &pod{want: wire.Capture{UID: "nobodys"}}
	newer := connect("announced", "both")
	older := connect("both", "ended")
	b.prune(older)
	expect("complete list of the older", "announced", "both", "ended")
	b.prune(newer)
	expect("complete list of the newer", "announced", "both", "ended")
	b.agentEnded(older)
	expect("the older ended", "announced", "both")
	third := connect()
	b.prune(third)
	third.sent["announced"] = true // it heard of it meanwhile
	b.agentEnded(newer)
	expect("the newer ended", "announced")
	b.agentEnded(third)
	expect("no agent is left", "announced")
}

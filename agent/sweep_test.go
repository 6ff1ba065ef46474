// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestSweep: an agent that starts removes what killed ones left, and nothing of those that live or begin.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	leave := func(name, network string, killed bool, age time.Duration) {
		l, err := net.ListenUnix(network, &net.UnixAddr{Name: filepath.Join(dir, name), Net: network})
		if err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
			t.Fatal(err)
		}
		if l.SetUnlinkOnClose(!killed); killed {
			l.Close()
		} else {
			t.Cleanup(func() { l.Close() })
		}
	}
	for _, a := range []struct {
		generation string
		killed     bool
		age        time.Duration
	}{{"killed", true, time.Minute}, {"lives", false, time.Minute}, {"begins", true, time.Second}} {
		leave("agent-"+a.generation+"-cni.sock", "unixpacket", a.killed, a.age)
		leave("agent-"+a.generation+"-zds.sock", "unixpacket", a.killed, a.age)
		leave("agent-"+a.generation+"-wds.sock", "unix", a.killed, a.age)
		leave("agent-"+a.generation+"-debug.sock", "unix", a.killed, a.age)
	}
	leave("broker-killed.sock", "unixpacket", true, time.Minute) // the broker's own to remove
	sweep(dir, slog.New(slog.DiscardHandler))
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range es {
		left = append(left, e.Name())
	}
	want := []string{"agent-begins-cni.sock", "agent-begins-debug.sock", "agent-begins-wds.sock", "agent-begins-zds.sock",
		"agent-lives-cni.sock", "agent-lives-debug.sock", "agent-lives-wds.sock", "agent-lives-zds.sock", "broker-killed.sock"}
	if !slices.Equal(left, want) {
		t.Errorf("left: %v, want %v", left, want)
	}
}

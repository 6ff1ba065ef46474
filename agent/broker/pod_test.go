// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestCheckCapture(t *testing.T) {
	for name, tt := range map[string]struct {
		c    wire.Capture
		good bool
	}{
		"both families":   {wire.Capture{UID: "0-a", Addresses: addrs("10.0.0.1", "fd00::1")}, true},
		"no address yet":  {wire.Capture{UID: "0-a"}, true},
		"no uid":          {wire.Capture{Addresses: addrs("10.0.0.1")}, false},
		"a path":          {wire.Capture{UID: "../../x"}, false},
		"a pattern":       {wire.Capture{UID: "*"}, false},
		"two of a family": {wire.Capture{UID: "a", Addresses: addrs("10.0.0.1", "10.0.0.2")}, false},
		"mapped and not":  {wire.Capture{UID: "a", Addresses: addrs("10.0.0.1", "::ffff:10.0.0.2")}, false},
		"loopback":        {wire.Capture{UID: "a", Addresses: addrs("127.0.0.1")}, false},
		"unspecified":     {wire.Capture{UID: "a", Addresses: addrs("::")}, false},
		"invalid":         {wire.Capture{UID: "a", Addresses: []netip.Addr{{}}}, false},
	} {
		if err := checkCapture(tt.c); (err == nil) != tt.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCredits(t *testing.T) {
	c := newCredits(100, 300)
	now := time.Now()
	if n, retry := c.take(253, now); n != 253 || retry != 0 {
		t.Errorf("first: %d, %v", n, retry)
	}
	if n, retry := c.take(253, now); n != 47 || retry != 2060*time.Millisecond {
		t.Errorf("the rest: %d, %v", n, retry)
	}
	if n, retry := c.take(1, now); n != 0 || retry != 10*time.Millisecond {
		t.Errorf("none left: %d, %v", n, retry)
	}
	if n, _ := c.take(253, now.Add(time.Second)); n != 100 {
		t.Errorf("after a second: %d", n)
	}
	if n, _ := c.take(1000, now.Add(time.Hour)); n != 300 {
		t.Errorf("after an hour: %d, want the burst", n)
	}
}

func TestFailingPodIsTriedLessOften(t *testing.T) {
	var p pod
	start := time.Unix(1700000000, 0)
	for after, want := range map[time.Duration]time.Duration{0: 0, retryEager: 0, retryEager + 1: retryPause, time.Hour: retryPause} {
		p.failing = start
		p.failed(start.Add(after))
		if got := p.nextTry.Sub(start.Add(after)); got != want {
			t.Errorf("failing for %v: next in %v, want %v", after, got, want)
		}
	}
}

func TestStateComesBack(t *testing.T) {
	dir := t.TempDir()
	if s, err := loadState(dir); err != nil || len(s.Pods) != 0 {
		t.Errorf("nothing saved: %+v, %v", s, err)
	}
	want := savedState{
		Boot:       bootID(),
		Exceptions: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Pods: []savedPod{{
			Capture: wire.Capture{UID: "a", Namespace: "n", Name: "p", ServiceAccount: "s", Addresses: addrs("10.0.0.1", "fd00::1"), Running: true},
			Cookie:  1<<63 + 1, Listeners: [wire.Kinds]uint64{1, 2, 3}, Sysctls: map[string]string{twReuse: "2"}, DrainUntil: time.Unix(1700000000, 0).UTC(),
		}},
	}
	must(t, saveState(dir, want))
	got, err := loadState(dir)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	must(t, os.WriteFile(filepath.Join(dir, stateFile), []byte("{"), 0o600))
	if _, err := loadState(dir); err == nil {
		t.Error("a damaged file was read")
	}
	// A write cut short leaves the old file.
	must(t, saveState(dir, want))
	must(t, os.WriteFile(filepath.Join(dir, "."+stateFile), []byte("{"), 0o600))
	if got, err := loadState(dir); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("after a write cut short: %+v, %v", got, err)
	}
	// What names things of the kernel is worth nothing after a reboot.
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, stateFile), bytes.Replace(data, []byte(bootID()), []byte("another"), 1), 0o600))
	got, err = loadState(dir)
	if p := (savedPod{Capture: want.Pods[0].Capture, DrainUntil: want.Pods[0].DrainUntil}); err != nil || len(got.Pods) != 1 || !reflect.DeepEqual(got.Pods[0], p) {
		t.Errorf("after a reboot: %+v, %v", got, err)
	}
}

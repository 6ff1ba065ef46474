// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// A ztunnel in wrong hands hands over what it likes, connection after connection.
func TestHandedListenersAreBounded(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	b := &Broker{handed: map[string][]handedListener{}}
	keep := func(m wire.ListenerMessage) bool {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		b.keepHanded(handedListener{message: m, fd: own})
		_, err = unix.FcntlInt(uintptr(own), unix.F_GETFD, 0)
		return err == nil
	}
	t.Cleanup(func() {
		for uid := range b.handed {
			b.dropHanded(uid)
		}
	})
	for what, m := range map[string]wire.ListenerMessage{
		"another cookie": {Pod: "a", Cookie: cookie + 1},
		"no such kind":   {Pod: "a", Cookie: cookie, Kind: wire.Kinds},
	} {
		if keep(m) {
			t.Errorf("%s: kept", what)
		}
	}
	if !keep(wire.ListenerMessage{Pod: "a", Cookie: cookie}) || keep(wire.ListenerMessage{Pod: "a", Cookie: cookie}) {
		t.Error("a listener is kept once")
	}
	kept := 1
	for i := range 2 * maxHanded {
		if keep(wire.ListenerMessage{Pod: fmt.Sprint(i), Cookie: cookie}) {
			kept++
		}
	}
	if kept != maxHanded {
		t.Errorf("%d are kept, %d allowed", kept, maxHanded)
	}
}

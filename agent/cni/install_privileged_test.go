// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/tests/testutil"
)

// The agent is root without a capability: it can't give its file to the owner of the one before.
func TestInstallWithoutCapabilities(t *testing.T) {
	testutil.Privileged(t)
	r := newRig(t)
	r.write(r.conf("10-flannel.conflist"), flannel)
	if err := os.Chmod(r.conf("10-flannel.conflist"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(r.conf("10-flannel.conflist"), 1234, 1234); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		var none [2]unix.CapUserData
		err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
		if err == nil {
			err = r.Install()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if c := r.chain("10-flannel.conflist"); c != "flannel portmap warren-cni" {
		t.Errorf("chain: %s", c)
	}
}

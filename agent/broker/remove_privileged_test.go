// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/testutil"
)

func TestRemoveTakesEverythingOffTheNode(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	before := w.readSysctl(p.ns, twReuse)
	b := w.startBroker()
	a := w.startAgent()
	a.Update(p.capture())
	a.Sync()
	testutil.Eventually(t, 10*time.Second, "sysctl is not changed", func() bool { return w.readSysctl(p.ns, twReuse) == "1\n" })
	testutil.Eventually(t, 10*time.Second, "captures are not saved", func() bool {
		s, err := loadState(filepath.Join(w.cfg.RunDir, "broker"))
		return err == nil && len(s.Pods) == 1 && len(s.Pods[0].Sysctls) > 0
	})
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := Remove(short, w.cfg); err == nil {
		t.Error("removed below a broker that works")
	}
	b.kill()
	must(t, Remove(t.Context(), w.cfg))
	if now := w.readSysctl(p.ns, twReuse); now != before {
		t.Errorf("%s is %q, was %q", twReuse, now, before)
	}
	for _, left := range []string{w.cfg.RunDir, filepath.Join(w.cfg.BPFFS, "warren")} {
		if _, err := os.Stat(left); !os.IsNotExist(err) {
			t.Errorf("%s: %v", left, err)
		}
	}
	must(t, Remove(t.Context(), w.cfg))
}

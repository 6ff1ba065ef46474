// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	wire "github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/tests/testutil"
)

func TestSilentAgentIsLeft(t *testing.T) {
	testutil.Privileged(t)
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := wire.Listen(path)
	must(t, err)
	defer l.Close()
	silent, err := net.Dial("unixpacket", path)
	must(t, err)
	defer silent.Close()
	uc, err := l.AcceptUnix()
	must(t, err)
	b := idleBroker(t, &fullDatapath{}, &bytes.Buffer{})
	b.greetWait = 20 * time.Millisecond
	ended := make(chan error, 1)
	go func() { ended <- b.serveAgent(t.Context(), wire.NewConn(uc)) }()
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("a connection that says nothing is held")
	}
}

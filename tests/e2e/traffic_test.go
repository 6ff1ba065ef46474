// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/e2e/testapp/answer"
)

// TestTraffic puts the tunnel under loads whose outcome can be told exactly, over both distances.
func TestTraffic(t *testing.T) {
	s := newSpine(t, Shared(t))
	for _, server := range []*Pod{s.near, s.far} {
		for _, network := range []string{"tcp4", "tcp6"} {
			t.Run(server.App+" "+network, func(t *testing.T) {
				client := s.client.In(t)
				at := func(port uint16) string { return server.Addr(network, port).String() }
				if a := client.End(network, at(FirstPort), "", "-timeout", "2s"); a.Got != "220 "+server.Name+" ready\n" || a.End != answer.Timeout {
					t.Errorf("a server that speaks first: %+v", a)
				}
				if a := client.End(network, at(7002), "x"); a.End != answer.Reset {
					t.Errorf("a server that resets: %+v", a)
				}
				if a := client.End(network, at(7003), "x"); a.End != answer.EOF || a.Got != "bye\n" {
					t.Errorf("a server that closes its half first: %+v", a)
				}
				const n = 64 << 20
				if a := client.Talk(network, at(EchoPort), "many", "-bytes", fmt.Sprint(n), "-timeout", "50s"); !a.OK() {
					t.Errorf("%d MiB there and back: %+v", n>>20, a)
				} else {
					t.Logf("%d MiB there and back: %.0f MiB/s", n>>20, float64(n>>20)/a.Took.Seconds())
				}
			})
		}
	}
	t.Run("short connections", func(t *testing.T) {
		l := s.client.In(t).Load("-every", "0", "-workers", "8", "echo://far:80", "echo://near:80")
		time.Sleep(3 * time.Second) // the length of the load
		a := l.Stop()
		if a.Failed > 0 || a.OK < 100 {
			t.Errorf("%+v", a)
		}
		t.Logf("%d connections, p50 %v, p99 %v", a.OK, a.P50, a.P99)
	})
	t.Run("applications' own protocols", func(t *testing.T) {
		for _, ask := range [][]string{{"http", "8080"}, {"http", "8080", "-h2c"}, {"https", "8443", "-insecure"}} {
			a, err := s.client.In(t).Get("tcp", fmt.Sprintf("%s://far-bare:%s/", ask[0], ask[1]), ask[2:]...)
			if err != nil || a.Pod != s.far.Name {
				t.Errorf("%v: %+v, %v", ask, a, err)
			}
		}
	})
}

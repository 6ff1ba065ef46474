// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"runtime"
	"strings"
	"sync"
	"testing"
)

// TestRelaysHoldLittle: a connection that is only relayed has its two goroutines, and no other waits for it.
func TestRelaysHoldLittle(t *testing.T) {
	m, client, _ := neighbours(t)
	m.echo(serverPort)
	const conns = 20
	for range conns {
		live(t, client)
	}
	count := func(f string) int {
		b := make([]byte, 4<<20)
		return strings.Count(string(b[:runtime.Stack(b, true)]), "(*"+f+"(")
	}
	eventually(t, "both directions of each", func() bool {
		return count("relaying).relayUp") == conns && count("relaying).relayDown") == conns
	})
	for _, f := range []string{"Proxy).serveOutbound", "connection).carryInside", "relaying).over"} {
		if n := count(f); n > 0 {
			t.Errorf("%s: %d goroutines are in it", f, n)
		}
	}
}

// TestWorkers: a job never waits for another, workers are used again, and few of them stay.
func TestWorkers(t *testing.T) {
	w := newWorkers()
	var all sync.WaitGroup
	const jobs = 10 * idleWorkers
	running, release := make(chan struct{}), make(chan struct{})
	all.Add(jobs)
	for range jobs {
		w.do(func() {
			defer all.Done()
			running <- struct{}{}
			<-release
		})
	}
	for range jobs {
		<-running // all of them, and none has ended
	}
	close(release)
	all.Wait()
	eventually(t, "some to stay", func() bool { return w.idle.Load() == idleWorkers })
	// One that counts as idle may not wait yet: a job then has a new one.
	eventually(t, "one to be used again", func() bool {
		idle := make(chan int32)
		w.do(func() { idle <- w.idle.Load() })
		return <-idle < idleWorkers
	})
	close(w.done)
	ended := make(chan struct{})
	w.do(func() { close(ended) })
	<-ended
}

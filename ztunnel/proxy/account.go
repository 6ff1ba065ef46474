// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"sync/atomic"

	"github.com/warren-mesh/warren/ztunnel/hbone"
)

// podPipes is how many pipes the slow readers of one pod may have at a time. The kernel gives one user 64 MiB of room in pipes
// (pipe-user-pages-soft, see pipe(7)), and all pods' are ztunnel's: 16 of 1 MiB are a quarter of it.
const podPipes = 16

// account is what one pod's slow readers, and the slow peers it talks to in plaintext, keep in this process between two TCP
// connections. Who reaches its bounds is served all the same, by smaller pieces. Safe for concurrent use.
type account struct {
	budget *hbone.Budget // shared with the pod's tunnels
	pipes  atomic.Int32
}

// full reports that what waits between TCP connections has had its part of the budget, which is half: the tunnels' streams
// are reset when all of it is used.
func (a *account) full() bool { return a.budget.Used() >= a.budget.Limit()/2 }

// takePipe counts a pipe, if the pod may have one more.
func (a *account) takePipe() bool {
	if a.pipes.Add(1) > podPipes {
		a.pipes.Add(-1)
		return false
	}
	return true
}

func (a *account) givePipe() { a.pipes.Add(-1) }

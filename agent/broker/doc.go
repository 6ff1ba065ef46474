// SPDX-License-Identifier: Apache-2.0

// Package broker is Warren's only privileged code. It finds the namespaces of the pods the agent wants captured,
// attaches the kernel programs to them, owns their listeners, and makes every socket that ztunnel uses. Agent
// and ztunnel may each be away: what is desired is kept on disk, what is attached is pinned, and listeners are
// shared, so that one party always still holds them.
//
// One goroutine (loop.go) owns the pods; connections to agents and ztunnels hand it functions to run. Making
// dial sockets does not go through it.
package broker

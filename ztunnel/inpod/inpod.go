// SPDX-License-Identifier: Apache-2.0

// Package inpod is how ztunnel gets at the network of the pods it serves. It opens no socket and no file by
// itself: Sockets and Files say all it may ask for, and Broker, their implementation, has the privileged broker
// make each of them and pass it over a unix socket. After start-up nothing else in ztunnel opens anything.
package inpod

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/warren-mesh/warren/mesh/broker"
)

// ErrNoSocket means that the broker gave no socket, connection or file in time: it is down, the pod is unknown
// to it, or the pod's credits are used up. Reason word NO_SOCKET.
var ErrNoSocket = errors.New("no socket from the broker")

// ErrPodGone means that the pod's network namespace ended. It is an ErrNoSocket as well.
var ErrPodGone = errPodGone{}

type errPodGone struct{}

func (errPodGone) Error() string        { return "the pod's network namespace is gone" }
func (errPodGone) Is(target error) bool { return target == ErrNoSocket }

// Kind names one of a pod's three listeners.
type Kind = broker.Kind

// The kinds of listeners.
const (
	Outbound  = broker.Outbound
	Plaintext = broker.Plaintext
	HBONE     = broker.HBONE
)

// Event is a change in what a pod has. Exactly one of Listener, Draining and Gone is set.
type Event struct {
	Pod  string // pod uid
	Kind Kind   // of Listener
	// Listener is new; the one of this pod and kind given before, if any, was closed.
	Listener *Listener
	// Draining: the pod left the mesh. Outbound and Plaintext were closed, HBONE goes on for tunnels that peers
	// still open. Call Drained when the pod's last connection ended.
	Draining bool
	// Gone: the pod's namespace ended or its capture is over. All its listeners were closed.
	Gone bool
}

// Sockets gives ztunnel its connections. Safe for concurrent use.
type Sockets interface {
	// Events delivers the pods' listeners, in order. It must be read; it is never closed.
	Events() <-chan Event
	// Dial connects from the pod's network namespace through a socket that the kernel programs let pass. client,
	// when valid, is what the application sees as its peer: only where dst is the pod's own address. Errors wrap
	// the connect's syscall.Errno, ErrNoSocket or the context's error.
	Dial(ctx context.Context, pod string, dst, client netip.AddrPort) (*Conn, error)
	// DialSelf connects from ztunnel's own network namespace.
	DialSelf(ctx context.Context, dst netip.AddrPort) (net.Conn, error)
	// Unix connects to the agent's newest socket of that name: "zds" (a seqpacket *net.UnixConn) or "wds".
	Unix(ctx context.Context, name string) (net.Conn, error)
}

// Files gives ztunnel the contents of files, by names from a fixed list: "token", "roots", "crl".
type Files interface {
	// ReadFile returns the file's bytes as they are now. A name not in the list and a file that is not there are
	// fs.ErrNotExist; one that can't be read is an error of its own; with no broker in time the error is ErrNoSocket.
	ReadFile(ctx context.Context, name string) ([]byte, error)
}

var (
	_ Sockets = (*Broker)(nil)
	_ Files   = (*Broker)(nil)
)

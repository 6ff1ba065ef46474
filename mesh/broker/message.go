// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"net/netip"
	"time"
)

// Type says what a message's body is.
type Type uint8

// The messages. Numbers are part of the protocol's version: append, never renumber.
const (
	TypeHello Type = 1 // both ways, first on every connection: Hello

	// Agent to broker.
	TypeCaptureUpdate Type = 2 // CaptureUpdate, optionally with the pod's netns as the only descriptor
	TypeCaptureDelete Type = 3 // CaptureDelete
	TypeCaptureSync   Type = 4 // Empty: all captures were sent on this connection; others may be pruned
	TypeSettings      Type = 5 // Settings
	TypeStatsRequest  Type = 6 // Request

	// Broker to agent.
	TypeCaptureState Type = 7 // State
	TypeStats        Type = 8 // Stats

	// Broker to broker: the newcomer asks the holder of the lock to hand over.
	TypeHandover Type = 9 // Empty; answered by ListenerMessages and a ListenersDone, then end of file

	// Broker and ztunnel.
	TypeListener       Type = 16 // both ways: ListenerMessage with the listener as the only descriptor
	TypeListenersDone  Type = 17 // both ways: Empty: all listeners the sender holds were sent
	TypeSocketsRequest Type = 18 // ztunnel asks: SocketsRequest
	TypeSockets        Type = 19 // broker: Sockets with that many descriptors
	TypePodDraining    Type = 20 // broker: PodMessage: un-enrolled; finish what is alive, then say PodDrained
	TypePodDrained     Type = 21 // ztunnel: PodMessage: no connection of the pod is left
	TypePodGone        Type = 22 // broker: PodMessage: close every socket of the pod
	TypeUnixRequest    Type = 23 // ztunnel asks: NameRequest
	TypeUnix           Type = 24 // broker: NameReply with the connection as the only descriptor
	TypeFileRequest    Type = 25 // ztunnel asks: NameRequest
	TypeFile           Type = 26 // broker: NameReply with Data
	// ztunnel asks: PodMessage: it let go of the pod's listeners and wants them again. An older broker ends the connection at
	// it, as at any type that it does not know; after the next Hello it sends all listeners anyhow.
	TypeListenersRequest Type = 27
)

func (t Type) known() bool {
	return t >= TypeHello && t <= TypeHandover || t >= TypeListener && t <= TypeListenersRequest
}

// Hello opens a connection.
type Hello struct {
	Role       string `json:"role"`       // "agent", "broker", "ztunnel"
	Generation string `json:"generation"` // which start of that part
}

// Empty is the body of messages that say everything by their type.
type Empty struct{}

// Capture is a pod that should be captured.
type Capture struct {
	UID            string       `json:"uid"`
	Namespace      string       `json:"namespace"`
	Name           string       `json:"name"`
	ServiceAccount string       `json:"serviceAccount"`
	Addresses      []netip.Addr `json:"addresses"`
	// Running says that the pod ran before it was enrolled: connections it is just opening get through.
	Running bool `json:"running,omitempty"`
	// Except are destinations that are never captured of this pod, beside those of Settings.
	Except []netip.Prefix `json:"except,omitempty"`
}

// CaptureUpdate adds or changes a capture.
type CaptureUpdate struct {
	Capture
}

// CaptureDelete ends a capture.
type CaptureDelete struct {
	UID string `json:"uid"`
	// Keep leaves HBONE steered and live connections alone until ztunnel says they ended or the drain deadline.
	Keep bool `json:"keep,omitempty"`
}

// Settings are what holds for all pods; they replace those before.
type Settings struct {
	// Exceptions are prefixes that are never captured. Link-local always is one.
	Exceptions []netip.Prefix `json:"prefixes"`
	// Drain is how long an un-enrolled pod's live tunnels may last; 0: as the broker's own flag says; negative: not at all.
	Drain time.Duration `json:"drain,omitempty"`
}

// Request is a question whose answer carries the same number.
type Request struct {
	ID uint64 `json:"id"`
}

// State is what became of a capture.
type State struct {
	UID      string    `json:"uid"`
	Captured bool      `json:"captured"`
	Gone     bool      `json:"gone,omitempty"`   // nothing is held of it: its namespace or cgroup ended, or there is none, or its release is over
	Reason   string    `json:"reason,omitempty"` // why not captured: a sentence or a reason word; "" when captured
	Netns    uint64    `json:"netns,omitempty"`  // inode of the network namespace that was found to be the pod's; 0: none
	At       time.Time `json:"at"`
}

// Stats are the broker's figures.
type Stats struct {
	ID       uint64               `json:"id"`
	Reasons  map[string]uint64    `json:"reasons"` // kernel counters by reason word
	Verified time.Time            `json:"verified"`
	Drifts   []string             `json:"drifts,omitempty"`   // what was attached wrongly at the last look
	Failures []string             `json:"failures,omitempty"` // what the broker could not do and tries again
	Repairs  uint64               `json:"repairs"`            // drifts and dead listeners repaired since start
	Ztunnels int                  `json:"ztunnels"`           // connected
	Pools    map[string]PoolStats `json:"pools,omitempty"`    // by pod uid; "" is ztunnel's own
	Pods     map[string]State     `json:"pods,omitempty"`     // by pod uid
	Files    []string             `json:"files,omitempty"`    // names of files ztunnel may read
}

// PoolStats count one pod's dial sockets since the broker started.
type PoolStats struct {
	Asked   uint64 `json:"asked"`
	Given   uint64 `json:"given"`
	Refused uint64 `json:"refused"` // over the pod's credits
}

// ListenerMessage announces the listener that travels with it.
type ListenerMessage struct {
	Pod    string `json:"pod"`
	Kind   Kind   `json:"kind"`
	Cookie uint64 `json:"cookie"` // SO_COOKIE
	// Number is ztunnel's descriptor, in place of one that travels, where the kernel let none travel (ETOOMANYREFS: it
	// counts those on their way for all processes of a user together). The broker takes it from the process.
	Number int `json:"number,omitempty"`
}

// SocketsRequest asks for unconnected sockets in the pod's netns; Pod "" is ztunnel's own.
type SocketsRequest struct {
	Pod   string `json:"pod"`
	Count int    `json:"count"` // 1 to MaxFDs
}

// Sockets answers a SocketsRequest, each exactly once.
type Sockets struct {
	Pod        string `json:"pod"`
	Asked      int    `json:"asked"`                // the request's Count
	Given      int    `json:"given"`                // descriptors sent; fewer when credits ran out
	IPv4Only   bool   `json:"ipv4Only,omitempty"`   // the host has no IPv6: AF_INET sockets
	RetryAfter int64  `json:"retryAfter,omitempty"` // milliseconds until asking again makes sense, when Given < Asked
	Error      string `json:"error,omitempty"`
}

// PodMessage names a pod.
type PodMessage struct {
	Pod string `json:"pod"`
}

// NameRequest asks for a thing by its name in a fixed list.
type NameRequest struct {
	ID   uint64 `json:"id"`
	Name string `json:"name"`
}

// NameReply answers a NameRequest.
type NameReply struct {
	ID    uint64 `json:"id"`
	Data  []byte `json:"data,omitempty"`
	Error string `json:"error,omitempty"`
	// Missing tells of an Error that there is no such file, in the list or at its path.
	Missing bool `json:"missing,omitempty"`
}

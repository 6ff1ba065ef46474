// SPDX-License-Identifier: Apache-2.0

// Package answer is what the test application says, as JSON: its verbs print one of these.
package answer

import "time"

// How a connection, or the attempt of one, ended.
const (
	EOF         = "EOF"         // in order
	Reset       = "reset"       // ECONNRESET or EPIPE
	Refused     = "refused"     // ECONNREFUSED
	Denied      = "denied"      // EPERM or EACCES
	Timeout     = "timeout"     // nothing happened in time
	Unreachable = "unreachable" // no route, or the name is unknown
	Other       = "other"       // Error says what
)

// Talk is one conversation.
type Talk struct {
	Local  string        // the client's own address (getsockname)
	Remote string        // whom it believes to talk to (getpeername)
	Peer   string        // whom the server believes to talk to (its getpeername)
	Pod    string        // the server's name
	Got    string        // what came back, without the server's greeting
	Bytes  int64         // how many bytes that were
	End    string        // how it ended; EOF is well
	Error  string        `json:",omitempty"`
	Took   time.Duration // from connect to the end
}

// OK says whether everything that was said came back, and the end was one in order.
func (t Talk) OK() bool { return t.End == EOF && t.Error == "" }

// IsReset says whether it ended as a connection that nobody takes: reset, or refused.
func (t Talk) IsReset() bool { return t.End == Reset || t.End == Refused }

// HTTP is what the HTTP servers say of a request.
type HTTP struct {
	Pod      string
	Peer     string
	Protocol string // HTTP/1.1, HTTP/2.0
	Method   string
	Host     string
	Path     string
	Header   map[string][]string
}

// Heard is what came to one connection of a server's raw protocols.
type Heard struct {
	Protocol string // echo, first, sink, ...
	Port     int
	Peer     string // by getpeername
	Line     string `json:",omitempty"` // the first that came, at most 200 bytes
	Bytes    int64
	End      string // empty while it lives
}

// Load is what became of many requests.
type Load struct {
	OK       int
	Failed   int
	Lost     int            // of connections that were held: how many ended by themselves
	Errors   map[string]int // how often, by kind
	Failures []Failure      // the first hundred
	Pods     map[string]int // who answered how often
	Longest  time.Duration  // the longest time without a success, from the start to the end
	P50, P99 time.Duration  // of those that succeeded
	Began    time.Time
	Ended    time.Time
}

// Failure is one request that failed.
type Failure struct {
	At     time.Time
	Target string
	End    string
	Error  string
	Took   time.Duration
}

// Escape is one attempt to leave the mesh.
type Escape struct {
	Name   string
	Fails  bool   // it is not to connect at all
	Line   string // what was said
	Local  string // the connection's own address
	Peer   string // whom the server saw
	End    string
	Error  string `json:",omitempty"`
	Reason string // of a packet: the guard's word
	Tag    []byte // of a packet: by which it is found on the wire
}

// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"cmp"
	"strconv"
)

// Top is what ztunnel's /debug/top answers: who had most traffic lately. All rates are per second.
type Top struct {
	// Seconds that the rates are over.
	Seconds float64  `json:"seconds"`
	Pods    []TopPod `json:"pods"` // most bytes first
}

// TopPod is a pod that had traffic.
type TopPod struct {
	Namespace   string `json:"namespace"`
	Name        string `json:"name"`
	UID         string `json:"uid"`
	Connections int    `json:"connections"` // open now
	Rates
	Peers []TopPeer `json:"peers"` // most bytes first
}

// TopPeer is whom it had to do with: a service's host name, namespace/workload, or an address. "(others)" are the
// peers that were too many to be told apart.
type TopPeer struct {
	Direction string `json:"direction,omitempty"` // outbound or inbound
	Peer      string `json:"peer"`
	Rates
}

// Rates are from the pod's side.
type Rates struct {
	Sent     float64 `json:"sentBytes"`
	Received float64 `json:"receivedBytes"`
	// Opened connections, and Failed ones, which were not established.
	Opened float64 `json:"openedConnections"`
	Failed float64 `json:"failedConnections"`
}

// TopHead are the columns of Rows.
var TopHead = []string{"POD", "PEER", "DIRECTION", "OPEN", "SENT B/S", "RECEIVED B/S", "OPENED/S", "FAILED/S"}

// Rows is a table: a row for each pod, and below it one for each of its peers.
func (t Top) Rows() (out [][]string) {
	row := func(pod, peer, direction, open string, r Rates) {
		n := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
		out = append(out, []string{pod, peer, direction, open, n(r.Sent), n(r.Received), n(r.Opened), n(r.Failed)})
	}
	for _, p := range t.Pods {
		name := p.Namespace + "/" + p.Name
		row(name, "(all)", "-", strconv.Itoa(p.Connections), p.Rates)
		for _, peer := range p.Peers {
			row(name, peer.Peer, cmp.Or(peer.Direction, "-"), "-", peer.Rates)
		}
	}
	return out
}

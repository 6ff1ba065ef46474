// SPDX-License-Identifier: Apache-2.0

// Package broker is the vocabulary between Warren's privileged broker and those it serves: the agent, which
// says what should be captured, and ztunnel, which owns no socket of its own. It holds the ports, the socket
// options that the kernel programs answer, the messages with their codec, and the agent's client.
package broker

import "time"

// Ports in a captured pod's network namespace. All are refused as destinations, except PortHBONE.
const (
	PortOutbound  = 15001 // the one outbound listener; the capture range is steered to it
	PortPlaintext = 15006 // inbound connections that are not HBONE
	PortHBONE     = 15008 // inbound HBONE
	PortDNS       = 15053 // reserved for DNS capture

	// CaptureFirst and CaptureLast bound the ports that the connect hooks send captured connections to.
	// More than one, because the kernel gives one source port to several destination ports at once.
	CaptureFirst = 61000
	CaptureLast  = 61063
)

const (
	// Version of the protocol. A peer of another version is refused: both parts ship together.
	Version = 1
	// MaxBody bounds a message's JSON body, in bytes.
	MaxBody = 64 << 10
	// MaxFDs is the kernel's own bound on descriptors in one message (SCM_MAX_FD).
	MaxFDs = 253
	// ZtunnelUID is the user and group that ztunnel runs as, and the group of the run directory.
	ZtunnelUID = 65532
	// WriteTimeout is how long a peer may leave a message unread before it counts as unresponsive.
	WriteTimeout = 5 * time.Second
)

// Kind names one of a pod's three listeners.
type Kind uint8

const (
	Outbound  Kind = iota // accepts what the pod's applications dial
	Plaintext             // accepts what comes in without HBONE
	HBONE                 // accepts tunnels
	Kinds                 // the number of kinds
)

// String returns the kind as it stands in logs.
func (k Kind) String() string {
	switch k {
	case Outbound:
		return "outbound"
	case Plaintext:
		return "plaintext"
	case HBONE:
		return "hbone"
	}
	return "unknown"
}

// Port is the port the kind's listener is bound to, 0 for an unknown kind.
func (k Kind) Port() int {
	switch k {
	case Outbound:
		return PortOutbound
	case Plaintext:
		return PortPlaintext
	case HBONE:
		return PortHBONE
	}
	return 0
}

// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"time"

	"github.com/warren-mesh/warren/mesh/reason"
)

// Ztunnel is ztunnel's whole /config_dump.
type Ztunnel struct {
	Snapshot
	StagedServices map[string]any           `json:"stagedServices"`
	StaticConfig   map[string]any           `json:"staticConfig"`
	Version        map[string]string        `json:"version"` // "version" and "node"
	Config         map[string]string        `json:"config"`
	Certificates   []Certificate            `json:"certificates"`
	WorkloadState  map[string]WorkloadState `json:"workloadState"` // by pod uid
}

// Certificate is that of one identity; never its key.
type Certificate struct {
	Identity string            `json:"identity"`
	State    string            `json:"state"`
	Chain    []CertificateInfo `json:"certChain"`
	Renew    time.Time         `json:"renewTime,omitzero"`
	Error    string            `json:"error,omitempty"`
}

// CertificateInfo is one certificate of a chain, the leaf first.
type CertificateInfo struct {
	Serial    string    `json:"serialNumber"` // decimal
	NotBefore time.Time `json:"validFrom"`
	NotAfter  time.Time `json:"expirationTime"`
}

// WorkloadState is a pod that ztunnel serves.
type WorkloadState struct {
	State       string       `json:"state"` // Up, Pending or Draining
	Info        WorkloadInfo `json:"info"`
	Listeners   []string     `json:"listeners"`
	Connections Connections  `json:"connections"`
}

// WorkloadInfo names a pod.
type WorkloadInfo struct {
	Name           string `json:"name"`
	Namespace      string `json:"namespace"`
	TrustDomain    string `json:"trustDomain"`
	ServiceAccount string `json:"serviceAccount"`
}

// Connections are a pod's live ones.
type Connections struct {
	Inbound  []Connection `json:"inbound"`
	Outbound []Connection `json:"outbound"`
}

// Connection is a live connection.
type Connection struct {
	ID          uint64        `json:"id"`
	Src         string        `json:"src"`
	OriginalDst string        `json:"originalDst"`
	ActualDst   string        `json:"actualDst"`
	Protocol    string        `json:"protocol"`
	Peer        string        `json:"peer,omitempty"`
	Reason      reason.Reason `json:"reason"`
	Open        string        `json:"open"`
	Established bool          `json:"established"`
	// BytesSent and BytesReceived so far, from the pod's side.
	BytesSent     uint64 `json:"bytesSent"`
	BytesReceived uint64 `json:"bytesReceived"`
}

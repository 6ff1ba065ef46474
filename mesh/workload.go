// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"net/netip"
	"time"
)

// Capture says how connections reach a workload, as far as the objects and its own node tell.
type Capture uint8

const (
	// Outside: no pod, or outside the mesh by its own objects (not enrolled, host network, opted out,
	// excluded namespace, injected sidecar). Plaintext.
	Outside Capture = iota
	// Captured: the pod's own node published that it is captured. HBONE only.
	Captured
	// ReadyBeforeEnrolled: enrolled, nothing published yet, and this agent itself saw the pod Ready before
	// it saw it enrolled. Plaintext until its node captured it, and never again after that.
	ReadyBeforeEnrolled
	// Pending: enrolled otherwise: nothing published, pending or failed. Not chosen while another endpoint can be.
	Pending
)

var captureNames = [...]string{"outside", "captured", "ready-before-enrolled", "pending"}

func (c Capture) String() string {
	if int(c) < len(captureNames) {
		return captureNames[c]
	}
	return "unknown"
}

// Workload is one thing with addresses: a pod, or an endpoint that is no pod. Immutable.
type Workload struct {
	// UID is unique in the mesh: "<cluster>//Pod/<namespace>/<name>", as in ambient.
	UID string
	// PodUID is the Kubernetes uid of the pod; empty for what is no pod.
	PodUID    string
	Namespace string
	Name      string
	Addresses []netip.Addr
	Node      string

	TrustDomain    string
	ServiceAccount string

	Capture Capture
	// CaptureReason is the word its node published beside a capture that is not "true"; for people.
	CaptureReason string
	// CapturedRunning: the pod already ran when it was captured, so connections it made before go on in plaintext.
	CapturedRunning bool
	// CapturedAt is when this process first saw the pod reported captured; zero while it is not.
	CapturedAt time.Time

	// Except are destinations this pod reaches directly although it is captured, beside those of Config.Exceptions.
	Except []netip.Prefix

	HostNetwork bool
	// Ready: may be chosen as an endpoint.
	Ready bool
	// Draining: it terminates and still serves. It may be chosen where no endpoint is Ready.
	Draining bool

	// Names for telemetry and CONNECT's baggage header.
	WorkloadName      string
	WorkloadType      string // deployment, statefulset, daemonset, job, cronjob, pod
	CanonicalName     string
	CanonicalRevision string
	Cluster           string
	Network           string
	Region, Zone      string

	// Policies referenced by this workload itself (scope workload); namespace and mesh scope apply besides.
	Policies []Name
	// Services this workload is an endpoint of, with the ports it serves them on.
	Services map[Name]EndpointPorts
}

// EndpointPorts maps a service's port to this endpoint's port; a service port that is missing is not served here.
type EndpointPorts map[uint16]uint16

// Identity is the workload's SPIFFE identity; zero when it has no service account.
func (w *Workload) Identity() Identity {
	if w == nil || w.ServiceAccount == "" {
		return Identity{}
	}
	td := w.TrustDomain
	if td == "" {
		td = DefaultTrustDomain
	}
	return Identity{TrustDomain: td, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount}
}

// Excepts reports whether connections of the workload to a are never captured: by its own exceptions, or all pods'.
func (w *Workload) Excepts(c *Config, a netip.Addr) bool {
	return c.Excepted(a) || w != nil && contains(w.Except, a)
}

// NamespacedName is the workload's namespace and name.
func (w *Workload) NamespacedName() Name { return Name{Namespace: w.Namespace, Name: w.Name} }

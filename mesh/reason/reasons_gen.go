// SPDX-License-Identifier: Apache-2.0
// Code generated from bpf/reasons.yaml; DO NOT EDIT.

package reason

const (
	// None: no reason: the ordinary case.
	None Reason = 0
	// CapturedOutbound: a pod's connect was redirected into its outbound listener.
	CapturedOutbound Reason = 1
	// CapturedInbound: a connection to the pod was steered to the inbound plaintext listener.
	CapturedInbound Reason = 2
	// CapturedHBONE: a connection to port 15008 was steered to the HBONE listener.
	CapturedHBONE Reason = 3
	// ExemptSocket: a socket the broker made dialled.
	ExemptSocket Reason = 4
	// Loopback: the destination or source is the pod itself.
	Loopback Reason = 5
	// Excepted: the destination lies in link-local or a configured exception.
	Excepted Reason = 6
	// Probe: an exact connection noted from the kubelet.
	Probe Reason = 7
	// ReservedPort: a destination port that belongs to the mesh: 15001, 15006, 15053 or the capture range.
	ReservedPort Reason = 8
	// ExemptRefused: an exempt socket dialled loopback, link-local or a reserved port.
	ExemptRefused Reason = 9
	// NoListener: the pod is captured but its listener is missing.
	NoListener Reason = 10
	// NoOriginalDestination: an accepted outbound connection carries no original destination.
	NoOriginalDestination Reason = 11
	// NoStorage: the kernel had no memory for a socket's storage.
	NoStorage Reason = 12
	// GuardNotExempt: a TCP SYN left the pod from a socket that is not the broker's.
	GuardNotExempt Reason = 13
	// GuardUnparsable: a TCP packet the guard can't parse left the pod.
	GuardUnparsable Reason = 14
	// GuardBeforeCapture: a SYN of a connection begun before capture, within one retransmission time.
	GuardBeforeCapture Reason = 15
	// EstablishedBeforeCapture: a connection established before its pod was captured goes on untouched.
	EstablishedBeforeCapture Reason = 16
	// SameNode: both ends are on this node.
	SameNode Reason = 17
	// Tunnel: HBONE to the destination.
	Tunnel Reason = 18
	// PassthroughOutsideCluster: the destination lies outside the cluster: plain TCP.
	PassthroughOutsideCluster Reason = 19
	// PassthroughNotEnrolled: the endpoint is outside the mesh by its own objects: plain TCP.
	PassthroughNotEnrolled Reason = 20
	// PassthroughBeforeEnrolled: the endpoint was Ready before it was enrolled and is not captured yet: plain TCP.
	PassthroughBeforeEnrolled Reason = 21
	// InboundPlaintext: plaintext from outside the mesh, accepted under PERMISSIVE.
	InboundPlaintext Reason = 22
	// DestinationUnknown: an address of the cluster that no object explains.
	DestinationUnknown Reason = 23
	// DestinationNotCaptured: the destination is enrolled but its node has not reported it captured.
	DestinationNotCaptured Reason = 24
	// NoHealthyEndpoint: the service has no ready endpoint.
	NoHealthyEndpoint Reason = 25
	// NoSuchPort: the service or workload has no such port.
	NoSuchPort Reason = 26
	// SourceUnknown: this ztunnel does not know the workload the connection came from.
	SourceUnknown Reason = 27
	// RecursiveCall: the connection would call the mesh's own listeners.
	RecursiveCall Reason = 28
	// PlaintextFromMesh: plaintext from an address known as a captured pod.
	PlaintextFromMesh Reason = 29
	// PolicyDeny: a DENY policy matched.
	PolicyDeny Reason = 30
	// PolicyNoAllow: ALLOW policies apply and none matched.
	PolicyNoAllow Reason = 31
	// PolicyUnknown: a policy is referenced that this ztunnel does not know yet.
	PolicyUnknown Reason = 32
	// StrictMTLS: STRICT: the peer has no mesh identity.
	StrictMTLS Reason = 33
	// AuthorityMismatch: CONNECT names another address than the connection's destination.
	AuthorityMismatch Reason = 34
	// BadRequest: not a valid CONNECT request.
	BadRequest Reason = 35
	// TLSFailure: the TLS handshake failed.
	TLSFailure Reason = 36
	// IdentityMismatch: the peer's certificate is for another identity.
	IdentityMismatch Reason = 37
	// NoCertificate: there is no valid certificate for the workload's own identity.
	NoCertificate Reason = 38
	// ConnectFailure: TCP connect to the application or the peer failed.
	ConnectFailure Reason = 39
	// NetworkPolicy: port 15008 does not answer, or no longer does: maybe a NetworkPolicy blocks it.
	NetworkPolicy Reason = 40
	// PeerRefused: the far ztunnel answered CONNECT with an error.
	PeerRefused Reason = 41
	// StreamReset: the tunnel stream or the application's connection was reset.
	StreamReset Reason = 42
	// TunnelLost: the tunnel connection ended under a live stream.
	TunnelLost Reason = 43
	// Drained: the connection outlived the drain deadline.
	Drained Reason = 44
	// PolicyChanged: a policy or certificate change no longer allows the connection.
	PolicyChanged Reason = 45
	// Limit: a per-pod limit was reached.
	Limit Reason = 46
	// NoSocket: the broker gave no socket in time.
	NoSocket Reason = 47
	// KernelUnverified: what is attached in the kernel is not what should be.
	KernelUnverified Reason = 48
	// DNSFallback: a DNS query went to the pod's own resolver.
	DNSFallback Reason = 49
	// Internal: a defect in Warren: please report it.
	Internal Reason = 50
	// NodeUnproven: a certificate was asked for without proof of which node asks.
	NodeUnproven Reason = 51
	// NotOnNode: a certificate was asked for a service account with no enrolled pod on the caller's node.
	NotOnNode Reason = 52
	// BadCertificateRequest: a certificate request is malformed, too large, or asks for more than its one identity.
	BadCertificateRequest Reason = 53
	// ForeignTrustDomain: a certificate was asked for an identity of another trust domain.
	ForeignTrustDomain Reason = 54
	// RateLimit: a node asks for certificates faster than control answers.
	RateLimit Reason = 55
	// NotReady: control has not read the mesh's objects yet.
	NotReady Reason = 56
	// NoPodAddress: the pod has no address of the destination's family.
	NoPodAddress Reason = 57
	// CertificateRevoked: the peer's certificate, or one that vouches for it, is on the authority's revocation list.
	CertificateRevoked Reason = 58
)

// Max is the number of reasons; valid reasons lie in [0, Max).
const Max = 59

var table = [Max]entry{
	None:                      {"NONE", Carry, "no reason: the ordinary case"},
	CapturedOutbound:          {"CAPTURED_OUTBOUND", Carry, "a pod's connect was redirected into its outbound listener"},
	CapturedInbound:           {"CAPTURED_INBOUND", Carry, "a connection to the pod was steered to the inbound plaintext listener"},
	CapturedHBONE:             {"CAPTURED_HBONE", Carry, "a connection to port 15008 was steered to the HBONE listener"},
	ExemptSocket:              {"EXEMPT_SOCKET", Carry, "a socket the broker made dialled"},
	Loopback:                  {"LOOPBACK", Pass, "the destination or source is the pod itself"},
	Excepted:                  {"EXCEPTED", Pass, "the destination lies in link-local or a configured exception"},
	Probe:                     {"PROBE", Pass, "an exact connection noted from the kubelet"},
	ReservedPort:              {"RESERVED_PORT", Drop, "a destination port that belongs to the mesh: 15001, 15006, 15053 or the capture range"},
	ExemptRefused:             {"EXEMPT_REFUSED", Drop, "an exempt socket dialled loopback, link-local or a reserved port"},
	NoListener:                {"NO_LISTENER", Drop, "the pod is captured but its listener is missing"},
	NoOriginalDestination:     {"NO_ORIGINAL_DESTINATION", Drop, "an accepted outbound connection carries no original destination"},
	NoStorage:                 {"NO_STORAGE", Drop, "the kernel had no memory for a socket's storage"},
	GuardNotExempt:            {"GUARD_NOT_EXEMPT", Drop, "a TCP SYN left the pod from a socket that is not the broker's"},
	GuardUnparsable:           {"GUARD_UNPARSABLE", Drop, "a TCP packet the guard can't parse left the pod"},
	GuardBeforeCapture:        {"GUARD_BEFORE_CAPTURE", Pass, "a SYN of a connection begun before capture, within one retransmission time"},
	EstablishedBeforeCapture:  {"ESTABLISHED_BEFORE_CAPTURE", Pass, "a connection established before its pod was captured goes on untouched"},
	SameNode:                  {"SAME_NODE", Carry, "both ends are on this node"},
	Tunnel:                    {"TUNNEL", Carry, "HBONE to the destination"},
	PassthroughOutsideCluster: {"PASSTHROUGH_OUTSIDE_CLUSTER", Pass, "the destination lies outside the cluster: plain TCP"},
	PassthroughNotEnrolled:    {"PASSTHROUGH_NOT_ENROLLED", Pass, "the endpoint is outside the mesh by its own objects: plain TCP"},
	PassthroughBeforeEnrolled: {"PASSTHROUGH_BEFORE_ENROLLED", Pass, "the endpoint was Ready before it was enrolled and is not captured yet: plain TCP"},
	InboundPlaintext:          {"INBOUND_PLAINTEXT", Pass, "plaintext from outside the mesh, accepted under PERMISSIVE"},
	DestinationUnknown:        {"DESTINATION_UNKNOWN", Drop, "an address of the cluster that no object explains"},
	DestinationNotCaptured:    {"DESTINATION_NOT_CAPTURED", Drop, "the destination is enrolled but its node has not reported it captured"},
	NoHealthyEndpoint:         {"NO_HEALTHY_ENDPOINT", Drop, "the service has no ready endpoint"},
	NoSuchPort:                {"NO_SUCH_PORT", Drop, "the service or workload has no such port"},
	SourceUnknown:             {"SOURCE_UNKNOWN", Drop, "this ztunnel does not know the workload the connection came from"},
	RecursiveCall:             {"RECURSIVE_CALL", Drop, "the connection would call the mesh's own listeners"},
	PlaintextFromMesh:         {"PLAINTEXT_FROM_MESH", Drop, "plaintext from an address known as a captured pod"},
	PolicyDeny:                {"POLICY_DENY", Drop, "a DENY policy matched"},
	PolicyNoAllow:             {"POLICY_NO_ALLOW", Drop, "ALLOW policies apply and none matched"},
	PolicyUnknown:             {"POLICY_UNKNOWN", Drop, "a policy is referenced that this ztunnel does not know yet"},
	StrictMTLS:                {"STRICT_MTLS", Drop, "STRICT: the peer has no mesh identity"},
	AuthorityMismatch:         {"AUTHORITY_MISMATCH", Drop, "CONNECT names another address than the connection's destination"},
	BadRequest:                {"BAD_REQUEST", Drop, "not a valid CONNECT request"},
	TLSFailure:                {"TLS_FAILURE", Drop, "the TLS handshake failed"},
	IdentityMismatch:          {"IDENTITY_MISMATCH", Drop, "the peer's certificate is for another identity"},
	NoCertificate:             {"NO_CERTIFICATE", Drop, "there is no valid certificate for the workload's own identity"},
	ConnectFailure:            {"CONNECT_FAILURE", Drop, "TCP connect to the application or the peer failed"},
	NetworkPolicy:             {"NETWORK_POLICY", Drop, "port 15008 does not answer, or no longer does: maybe a NetworkPolicy blocks it"},
	PeerRefused:               {"PEER_REFUSED", Drop, "the far ztunnel answered CONNECT with an error"},
	StreamReset:               {"STREAM_RESET", Drop, "the tunnel stream or the application's connection was reset"},
	TunnelLost:                {"TUNNEL_LOST", Drop, "the tunnel connection ended under a live stream"},
	Drained:                   {"DRAINED", Drop, "the connection outlived the drain deadline"},
	PolicyChanged:             {"POLICY_CHANGED", Drop, "a policy or certificate change no longer allows the connection"},
	Limit:                     {"LIMIT", Drop, "a per-pod limit was reached"},
	NoSocket:                  {"NO_SOCKET", Drop, "the broker gave no socket in time"},
	KernelUnverified:          {"KERNEL_UNVERIFIED", Drop, "what is attached in the kernel is not what should be"},
	DNSFallback:               {"DNS_FALLBACK", Pass, "a DNS query went to the pod's own resolver"},
	Internal:                  {"INTERNAL", Drop, "a defect in Warren: please report it"},
	NodeUnproven:              {"NODE_UNPROVEN", Drop, "a certificate was asked for without proof of which node asks"},
	NotOnNode:                 {"NOT_ON_NODE", Drop, "a certificate was asked for a service account with no enrolled pod on the caller's node"},
	BadCertificateRequest:     {"BAD_CERTIFICATE_REQUEST", Drop, "a certificate request is malformed, too large, or asks for more than its one identity"},
	ForeignTrustDomain:        {"FOREIGN_TRUST_DOMAIN", Drop, "a certificate was asked for an identity of another trust domain"},
	RateLimit:                 {"RATE_LIMIT", Drop, "a node asks for certificates faster than control answers"},
	NotReady:                  {"NOT_READY", Drop, "control has not read the mesh's objects yet"},
	NoPodAddress:              {"NO_POD_ADDRESS", Drop, "the pod has no address of the destination's family"},
	CertificateRevoked:        {"CERTIFICATE_REVOKED", Drop, "the peer's certificate, or one that vouches for it, is on the authority's revocation list"},
}

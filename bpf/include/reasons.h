/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Code generated from reasons.yaml; DO NOT EDIT. */
#pragma once

enum reason {
	REASON_NONE = 0, /* no reason: the ordinary case */
	REASON_CAPTURED_OUTBOUND = 1, /* a pod's connect was redirected into its outbound listener */
	REASON_CAPTURED_INBOUND = 2, /* a connection to the pod was steered to the inbound plaintext listener */
	REASON_CAPTURED_HBONE = 3, /* a connection to port 15008 was steered to the HBONE listener */
	REASON_EXEMPT_SOCKET = 4, /* a socket the broker made dialled */
	REASON_LOOPBACK = 5, /* the destination or source is the pod itself */
	REASON_EXCEPTED = 6, /* the destination lies in link-local or a configured exception */
	REASON_PROBE = 7, /* an exact connection noted from the kubelet */
	REASON_RESERVED_PORT = 8, /* a destination port that belongs to the mesh: 15001, 15006, 15053 or the capture range */
	REASON_EXEMPT_REFUSED = 9, /* an exempt socket dialled loopback, link-local or a reserved port */
	REASON_NO_LISTENER = 10, /* the pod is captured but its listener is missing */
	REASON_NO_ORIGINAL_DESTINATION = 11, /* an accepted outbound connection carries no original destination */
	REASON_NO_STORAGE = 12, /* the kernel had no memory for a socket's storage */
	REASON_GUARD_NOT_EXEMPT = 13, /* a TCP SYN left the pod from a socket that is not the broker's */
	REASON_GUARD_UNPARSABLE = 14, /* a TCP packet the guard can't parse left the pod */
	REASON_GUARD_BEFORE_CAPTURE = 15, /* a SYN of a connection begun before capture, within one retransmission time */
	REASON_ESTABLISHED_BEFORE_CAPTURE = 16, /* a connection established before its pod was captured goes on untouched */
	REASON_SAME_NODE = 17, /* both ends are on this node */
	REASON_TUNNEL = 18, /* HBONE to the destination */
	REASON_PASSTHROUGH_OUTSIDE_CLUSTER = 19, /* the destination lies outside the cluster: plain TCP */
	REASON_PASSTHROUGH_NOT_ENROLLED = 20, /* the endpoint is outside the mesh by its own objects: plain TCP */
	REASON_PASSTHROUGH_BEFORE_ENROLLED = 21, /* the endpoint was Ready before it was enrolled and is not captured yet: plain TCP */
	REASON_INBOUND_PLAINTEXT = 22, /* plaintext from outside the mesh, accepted under PERMISSIVE */
	REASON_DESTINATION_UNKNOWN = 23, /* an address of the cluster that no object explains */
	REASON_DESTINATION_NOT_CAPTURED = 24, /* the destination is enrolled but its node has not reported it captured */
	REASON_NO_HEALTHY_ENDPOINT = 25, /* the service has no ready endpoint */
	REASON_NO_SUCH_PORT = 26, /* the service or workload has no such port */
	REASON_SOURCE_UNKNOWN = 27, /* this ztunnel does not know the workload the connection came from */
	REASON_RECURSIVE_CALL = 28, /* the connection would call the mesh's own listeners */
	REASON_PLAINTEXT_FROM_MESH = 29, /* plaintext from an address known as a captured pod */
	REASON_POLICY_DENY = 30, /* a DENY policy matched */
	REASON_POLICY_NO_ALLOW = 31, /* ALLOW policies apply and none matched */
	REASON_POLICY_UNKNOWN = 32, /* a policy is referenced that this ztunnel does not know yet */
	REASON_STRICT_MTLS = 33, /* STRICT: the peer has no mesh identity */
	REASON_AUTHORITY_MISMATCH = 34, /* CONNECT names another address than the connection's destination */
	REASON_BAD_REQUEST = 35, /* not a valid CONNECT request */
	REASON_TLS_FAILURE = 36, /* the TLS handshake failed */
	REASON_IDENTITY_MISMATCH = 37, /* the peer's certificate is for another identity */
	REASON_NO_CERTIFICATE = 38, /* there is no valid certificate for the workload's own identity */
	REASON_CONNECT_FAILURE = 39, /* TCP connect to the application or the peer failed */
	REASON_NETWORK_POLICY = 40, /* port 15008 does not answer, or no longer does: maybe a NetworkPolicy blocks it */
	REASON_PEER_REFUSED = 41, /* the far ztunnel answered CONNECT with an error */
	REASON_STREAM_RESET = 42, /* the tunnel stream or the application's connection was reset */
	REASON_TUNNEL_LOST = 43, /* the tunnel connection ended under a live stream */
	REASON_DRAINED = 44, /* the connection outlived the drain deadline */
	REASON_POLICY_CHANGED = 45, /* a policy or certificate change no longer allows the connection */
	REASON_LIMIT = 46, /* a per-pod limit was reached */
	REASON_NO_SOCKET = 47, /* the broker gave no socket in time */
	REASON_KERNEL_UNVERIFIED = 48, /* what is attached in the kernel is not what should be */
	REASON_DNS_FALLBACK = 49, /* a DNS query went to the pod's own resolver */
	REASON_INTERNAL = 50, /* a defect in Warren: please report it */
	REASON_NODE_UNPROVEN = 51, /* a certificate was asked for without proof of which node asks */
	REASON_NOT_ON_NODE = 52, /* a certificate was asked for a service account with no enrolled pod on the caller's node */
	REASON_BAD_CERTIFICATE_REQUEST = 53, /* a certificate request is malformed, too large, or asks for more than its one identity */
	REASON_FOREIGN_TRUST_DOMAIN = 54, /* a certificate was asked for an identity of another trust domain */
	REASON_RATE_LIMIT = 55, /* a node asks for certificates faster than control answers */
	REASON_NOT_READY = 56, /* control has not read the mesh's objects yet */
	REASON_NO_POD_ADDRESS = 57, /* the pod has no address of the destination's family */
	REASON_CERTIFICATE_REVOKED = 58, /* the peer's certificate, or one that vouches for it, is on the authority's revocation list */
	REASON_MAX = 59,
};

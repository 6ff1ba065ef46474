/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Keys and values shared with Go. The generated Go structs are their only mirror; layout_test.go compares both. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <linux/types.h>

/* An IPv6 address in network order; IPv4 is kept v4-mapped (::ffff:a.b.c.d), so that there is one key type
 * and one code path. All zero means "none". */
struct addr {
	__u32 w[4];
};

/* What user space reads and writes by sockopt: 20 bytes, port in network order. */
struct sock_endpoint {
	struct addr addr;
	__be16 port;
	__u16 pad;
};

/* A connection inside a pod, as both its ends see it. Ports in host order. The destination's address is left
 * out: it is always one of the pod's own. */
struct flow {
	struct addr src;
	__u16 src_port;
	__u16 dst_port;
};

/* What getpeername shows on a socket. via is the remote port (network order) the entry was made for: a socket
 * that is connected anew, past these programs, must not go on showing the old peer. */
struct peer {
	struct sock_endpoint shown;
	__be16 via;
	__u16 pad;
};

/* The mark of a socket the broker made, and the client's address it carries to the application. */
struct exempt {
	struct sock_endpoint client;
	__u32 has_client;
};

/* A whole connection, ports in host order: what the kubelet's socket is recognised by. */
struct tuple {
	struct addr src;
	struct addr dst;
	__u16 src_port;
	__u16 dst_port;
};

enum pod_flags {
	POD_CAPTURED = 1, /* every hook acts */
	POD_KEEP_HBONE = 2, /* draining: only port 15008 is steered, and exempt sockets keep their rules */
	POD_GRACE = 4, /* it ran before capture: connections under way get one retransmission */
	POD_EXCEPTIONS = 8, /* it has exceptions of its own: pod_exceptions has to be asked, too */
};

struct pod {
	struct addr ip4;
	struct addr ip6;
	__u64 captured_ns; /* CLOCK_MONOTONIC at capture */
	__u32 flags; /* enum pod_flags */
	__u32 pad;
};

/* Index into a pod's listeners map; the same numbers in Go. */
enum listener {
	LISTENER_OUTBOUND,
	LISTENER_HBONE,
	LISTENER_PLAINTEXT,
	LISTENER_MAX,
};

struct exception {
	__u32 bits; /* prefix length of the v4-mapped form */
	struct addr addr;
};

/* An exception of one pod. The netns cookie, low half first, comes whole before the address. */
struct pod_exception {
	__u32 bits; /* 64 more than of an exception */
	__u32 cookie[2];
	struct addr addr;
};

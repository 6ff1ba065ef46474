/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Addresses and ports: comparing and classifying, nothing that needs a hook's context. */
#pragma once

#include <bpf/bpf_endian.h>
#include "maps.h"

#define AF_INET 2
#define AF_INET6 10

static __always_inline void addr_from4(struct addr *a, __u32 ip4)
{
	a->w[0] = 0;
	a->w[1] = 0;
	a->w[2] = bpf_htonl(0xffff);
	a->w[3] = ip4;
}

static __always_inline bool addr_is4(const struct addr *a)
{
	return !a->w[0] && !a->w[1] && a->w[2] == bpf_htonl(0xffff);
}

static __always_inline bool addr_equal(const struct addr *a, const struct addr *b)
{
	return a->w[0] == b->w[0] && a->w[1] == b->w[1] && a->w[2] == b->w[2] && a->w[3] == b->w[3];
}

static __always_inline bool addr_none(const struct addr *a)
{
	return !(a->w[0] | a->w[1] | a->w[2] | a->w[3]);
}

/* 127.0.0.0/8, ::1, and the unspecified addresses, which connect takes for loopback. */
static __always_inline bool addr_loopback(const struct addr *a)
{
	if (addr_is4(a))
		return (a->w[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000) || !a->w[3];
	return !a->w[0] && !a->w[1] && !a->w[2] && (a->w[3] == bpf_htonl(1) || !a->w[3]);
}

/* 169.254.0.0/16 and fe80::/10. */
static __always_inline bool addr_link_local(const struct addr *a)
{
	if (addr_is4(a))
		return (a->w[3] & bpf_htonl(0xffff0000)) == bpf_htonl(0xa9fe0000);
	return (a->w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* Link-local and what the operator excepted: never captured, never guarded. */
static __always_inline bool addr_excepted(const struct addr *a)
{
	struct exception key = { .bits = 128, .addr = *a };

	return addr_link_local(a) || bpf_map_lookup_elem(&exceptions, &key);
}

static __always_inline bool port_capture(__u16 port)
{
	return port >= CAPTURE_FIRST && port < CAPTURE_FIRST + CAPTURE_PORTS;
}

/* Ports of the mesh inside a pod that nobody but its own programs may reach. 15008 is not one of them. */
static __always_inline bool port_reserved(__u16 port)
{
	return port == PORT_OUTBOUND || port == PORT_PLAINTEXT || port == PORT_DNS || port_capture(port);
}

/* Spreads consecutive numbers (socket cookies) over the bits of the result. */
static __always_inline __u32 mix(__u64 n)
{
	return (n * 0x9e3779b97f4a7c15ULL) >> 32;
}

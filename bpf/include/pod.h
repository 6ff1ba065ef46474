/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs ask about a pod. */
#pragma once

#include "addr.h"

static __always_inline struct pod *pod_find(__u64 cookie)
{
	return bpf_map_lookup_elem(&pods, &cookie);
}

static __always_inline bool pod_captured(const struct pod *pod)
{
	return pod->flags & POD_CAPTURED;
}

/* What is never captured of the pod and never guarded: for all pods, and for this one. */
static __always_inline bool pod_excepted(const struct pod *pod, __u64 cookie, const struct addr *a)
{
	struct pod_exception key = { .bits = 64 + 128, .cookie = { cookie, cookie >> 32 }, .addr = *a };

	if (addr_excepted(a))
		return true;
	return (pod->flags & POD_EXCEPTIONS) && bpf_map_lookup_elem(&pod_exceptions, &key);
}

static __always_inline bool pod_owns(const struct pod *pod, const struct addr *a)
{
	return addr_equal(a, &pod->ip4) || addr_equal(a, &pod->ip6);
}

/* A source that can only be the pod itself. Where a packet came in says nothing: a connection to the pod's own
 * address is reported with the index of eth0, not of lo. */
static __always_inline bool pod_local(const struct pod *pod, const struct addr *a)
{
	return addr_loopback(a) || pod_owns(pod, a);
}

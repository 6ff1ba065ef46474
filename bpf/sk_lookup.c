// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* sk_lookup: hands connections that arrive in a pod to ztunnel's listeners. One instance per pod, since the hook
 * can't ask for the netns cookie; it decides by the SOURCE address, never by the interface: a connection to the
 * pod's own address is reported with eth0's index. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include "include/pod.h"
#include "include/stats.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The cookie of the pod's network namespace. */
volatile const __u64 pod_cookie;

/* ztunnel's listeners in this pod. They must not be MPTCP sockets, which a sockmap refuses (and Go makes unless
 * told otherwise). A listener that is closed or shut down leaves the map by itself. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, LISTENER_MAX);
	__type(key, __u32);
	__type(value, __u64);
} listeners SEC(".maps");


/* The connection as its sender sees it. ctx is volatile for the same reason as in sockops.c. */
static __always_inline void read_arrival(volatile struct bpf_sk_lookup *ctx, struct tuple *t)
{
	__u32 family = ctx->family, local4 = ctx->local_ip4, remote4 = ctx->remote_ip4;
	struct addr local6 = {{ ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2], ctx->local_ip6[3] }};
	struct addr remote6 = {{ ctx->remote_ip6[0], ctx->remote_ip6[1], ctx->remote_ip6[2], ctx->remote_ip6[3] }};

	t->src_port = bpf_ntohs(ctx->remote_port);
	t->dst_port = ctx->local_port;
	if (family == AF_INET) {
		addr_from4(&t->src, remote4);
		addr_from4(&t->dst, local4);
		return;
	}
	t->src = remote6;
	t->dst = local6;
}

/* Fails closed: without its listener a captured connection is refused. */
static __always_inline int steer(struct bpf_sk_lookup *ctx, __u32 listener, enum reason reason)
{
	struct bpf_sock *sk = bpf_map_lookup_elem(&listeners, &listener);
	long err;

	if (!sk) {
		count(REASON_NO_LISTENER);
		return SK_DROP;
	}
	err = bpf_sk_assign(ctx, sk, 0);
	bpf_sk_release(sk);
	if (err) {
		count(REASON_NO_LISTENER);
		return SK_DROP;
	}
	count(reason);
	return SK_PASS;
}

static __always_inline bool has_original(const struct tuple *t)
{
	struct flow flow = { .src = t->src, .src_port = t->src_port, .dst_port = t->dst_port };
	__u64 cookie = pod_cookie;
	void *inflight = bpf_map_lookup_elem(&orig_dst, &cookie);

	return inflight && bpf_map_lookup_elem(inflight, &flow);
}

static __always_inline bool is_probe(const struct tuple *t)
{
	__u64 *noted = bpf_map_lookup_elem(&probes, t);

	return noted && bpf_ktime_get_ns() - *noted < PROBE_NS;
}

/* The order matters: (1) the pod's own redirected connects; (2) other connections of the pod to itself, among them
 * ztunnel's deliveries from 127.64.0.0/10; then from outside (3) HBONE, (4) the mesh's own ports, refused, (5) the
 * kubelet's noted connections, (6) everything else. SK_DROP answers with a reset. */
SEC("sk_lookup")
int on_lookup(struct bpf_sk_lookup *ctx)
{
	struct tuple t = {};
	struct pod *pod;

	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	pod = pod_find(pod_cookie);
	if (!pod)
		return SK_PASS;
	read_arrival(ctx, &t);

	if (pod_local(pod, &t.src)) {
		if (!port_capture(t.dst_port))
			return SK_PASS;
		/* Also while draining: whoever was redirected just before must not be refused. */
		if (has_original(&t))
			return steer(ctx, LISTENER_OUTBOUND, REASON_NONE);
		/* Evicted, or never captured: nobody listens there, unless it is the application itself. */
		count(REASON_NO_ORIGINAL_DESTINATION);
		return SK_PASS;
	}
	if (t.dst_port == PORT_HBONE)
		return steer(ctx, LISTENER_HBONE, REASON_CAPTURED_HBONE);
	if (!pod_captured(pod))
		return SK_PASS;
	if (port_reserved(t.dst_port)) {
		count(REASON_RESERVED_PORT);
		return SK_DROP;
	}
	if (is_probe(&t)) {
		count(REASON_PROBE);
		return SK_PASS;
	}
	return steer(ctx, LISTENER_PLAINTEXT, REASON_CAPTURED_INBOUND);
}

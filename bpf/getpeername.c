// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* getpeername4 and getpeername6: applications see whom they talk to, not ztunnel. On the connecting side that is
 * the original destination, on the accepting side the real client. accept(2) reports its address through the same
 * hook. What is kept is the socket's own, so this holds on after the pod has left the mesh. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include "include/addr.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline struct peer *find_peer(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct peer *peer;

	if (!sk)
		return NULL;
	peer = bpf_sk_storage_get(&sock_peers, sk, 0, 0);
	if (!peer || peer->via != (__be16)ctx->user_port)
		return NULL;
	return peer;
}

SEC("cgroup/getpeername4")
int on_getpeername4(struct bpf_sock_addr *ctx)
{
	struct peer *peer = find_peer(ctx);

	/* An IPv6 client can't be told to an IPv4 socket; what it sees then is ztunnel's source address. */
	if (peer && addr_is4(&peer->shown.addr)) {
		ctx->user_ip4 = peer->shown.addr.w[3];
		ctx->user_port = peer->shown.port;
	}
	return 1;
}

SEC("cgroup/getpeername6")
int on_getpeername6(struct bpf_sock_addr *ctx)
{
	struct peer *peer = find_peer(ctx);

	if (peer) {
		ctx->user_ip6[0] = peer->shown.addr.w[0];
		ctx->user_ip6[1] = peer->shown.addr.w[1];
		ctx->user_ip6[2] = peer->shown.addr.w[2];
		ctx->user_ip6[3] = peer->shown.addr.w[3];
		ctx->user_port = peer->shown.port;
	}
	return 1;
}

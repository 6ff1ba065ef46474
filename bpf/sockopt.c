// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* getsockopt and setsockopt at a level of our own: how a ztunnel without bpf(2) learns where an application wanted
 * to go, and says which client it speaks for. Sockets belong to their creator's cgroup, so these programs stand at
 * the node's pods cgroup: on the broker's own they would die with it, and its sockets would answer to nobody. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "include/maps.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Kernels before 6.4 answer EFAULT to options longer than a page, unless a program says by length 0 that it
 * leaves the option alone. */
static __always_inline void leave_alone(struct bpf_sockopt *ctx)
{
	if (ctx->optlen > 4096)
		ctx->optlen = 0;
}

/* Where there is no original destination the kernel's own answer stays: ENOPROTOOPT, EOPNOTSUPP on IPv4 sockets. */
SEC("cgroup/getsockopt")
int on_getsockopt(struct bpf_sockopt *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct sock_endpoint *out = ctx->optval, *orig;

	if (ctx->level != SOCKOPT_LEVEL) {
		leave_alone(ctx);
		return 1;
	}
	if (ctx->optname != SOCKOPT_ORIGINAL_DESTINATION || !sk || (void *)(out + 1) > ctx->optval_end)
		return 1;
	orig = bpf_sk_storage_get(&sock_origs, sk, 0, 0);
	if (!orig)
		return 1;
	*out = *orig;
	ctx->optlen = sizeof(*out);
	barrier(); /* clang would merge both writes into one of 64 bits, which the verifier refuses */
	ctx->retval = 0;
	return 1;
}

/* On other sockets than the broker's the kernel answers as if there were no such option. */
SEC("cgroup/setsockopt")
int on_setsockopt(struct bpf_sockopt *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct sock_endpoint *in = ctx->optval;
	struct exempt *e;

	if (ctx->level != SOCKOPT_LEVEL) {
		leave_alone(ctx);
		return 1;
	}
	if (ctx->optname != SOCKOPT_CLIENT_ADDRESS || !sk || (void *)(in + 1) > ctx->optval_end)
		return 1;
	e = bpf_sk_storage_get(&exempts, sk, 0, 0);
	if (!e)
		return 1;
	e->client = *in;
	e->has_client = 1;
	ctx->optlen = -1; /* done: the kernel need not look at it */
	return 1;
}

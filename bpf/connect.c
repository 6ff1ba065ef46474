// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* connect4 and connect6: a captured pod's connects are pointed at the pod's own address, at a port of the
 * capture range, where sk_lookup hands them to ztunnel. Sockets of the broker go where they want, within
 * limits. Covers blocking and non-blocking connect, TCP Fast Open, MPTCP and io_uring: all of them pass here.
 *
 * The pod's address is used and not 127.0.0.1: getsockname would turn into loopback, and sockets bound to a
 * device would time out. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_helpers.h>
#include "include/pod.h"
#include "include/stats.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum verdict {
	REFUSE, /* connect fails with EPERM */
	PASS,
	REDIRECT, /* to the pod's own address */
};

static __always_inline enum verdict refuse(enum reason reason)
{
	count(reason);
	return REFUSE;
}

/* The application goes to where the mesh has no part. */
static __always_inline enum verdict pass(struct bpf_sock *sk, enum reason reason)
{
	/* The socket may have been captured in an earlier connect. */
	bpf_sk_storage_delete(&sock_peers, sk);
	count(reason);
	return PASS;
}

/* Never the port the socket is bound to: it would connect to itself. (A port the kernel chooses lies outside the
 * range: the broker reserves it.) */
static __always_inline __u16 capture_port(struct bpf_sock_addr *ctx, struct bpf_sock *sk)
{
	__u16 via = CAPTURE_FIRST + (mix(bpf_get_socket_cookie(ctx)) & (CAPTURE_PORTS - 1));

	return via == sk->src_port ? via ^ 1 : via; /* the range begins with an even port */
}

/* Judges an application's connect to dst:port; via is the capture port it would be sent to. */
static __always_inline enum verdict app_connect(struct bpf_sock *sk, const struct pod *pod, __u64 cookie,
						const struct addr *dst, __be16 port, __u16 via)
{
	__u16 hport = bpf_ntohs(port);
	struct peer *peer;

	if (pod_local(pod, dst)) {
		/* ztunnel's listeners are bound in this very namespace. The capture range is not among them:
		 * without an original destination nothing answers there. */
		if (hport == PORT_OUTBOUND || hport == PORT_PLAINTEXT || hport == PORT_HBONE || hport == PORT_DNS)
			return refuse(REASON_RESERVED_PORT);
		return pass(sk, REASON_LOOPBACK);
	}
	if (pod_excepted(pod, cookie, dst))
		return pass(sk, REASON_EXCEPTED);
	if (addr_none(addr_is4(dst) ? &pod->ip4 : &pod->ip6))
		return refuse(REASON_NO_POD_ADDRESS);

	peer = bpf_sk_storage_get(&sock_peers, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!peer)
		return refuse(REASON_NO_STORAGE);
	peer->shown.addr = *dst;
	peer->shown.port = port;
	peer->via = bpf_htons(via);
	count(REASON_CAPTURED_OUTBOUND);
	return REDIRECT;
}

/* Judges a connect of a socket the broker made. A ztunnel that was taken over must not reach what only the
 * pod itself may: its loopback, a metadata service, or the mesh's own ports, here or in another pod. That holds
 * wherever the socket is: in ztunnel's own namespace, and in a pod that has left the mesh since. */
static __always_inline enum verdict exempt_connect(const struct addr *dst, __be16 port)
{
	if (addr_loopback(dst) || addr_link_local(dst) || port_reserved(bpf_ntohs(port)))
		return refuse(REASON_EXEMPT_REFUSED);
	count(REASON_EXEMPT_SOCKET);
	return PASS;
}

/* Says whether the connect delivers a client to the application over IPv4. From one source address to one port
 * there are about 28,000 connections, TIME_WAIT included; so these come from 127.64.0.0/10, spread by hash.
 * A sealed ztunnel may not bind, hence it is done here. IPv6 has one loopback address only. */
static __always_inline bool wants_loopback_source(const struct exempt *e, const struct pod *pod, const struct addr *dst)
{
	return e->has_client && addr_is4(dst) && addr_equal(dst, &pod->ip4);
}

static __always_inline __u32 loopback_source(struct bpf_sock_addr *ctx)
{
	return bpf_htonl(0x7f400000 | (mix(bpf_get_socket_cookie(ctx)) & 0x3fffff));
}

static __always_inline bool is_tcp(struct bpf_sock_addr *ctx)
{
	return ctx->protocol == IPPROTO_TCP || ctx->protocol == IPPROTO_MPTCP;
}

SEC("cgroup/connect4")
int on_connect4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct exempt *e;
	struct addr dst;
	struct pod *pod;
	__u64 cookie;
	__be16 port;
	__u16 via;

	if (!is_tcp(ctx) || !sk)
		return PASS;
	cookie = bpf_get_netns_cookie(ctx);
	pod = pod_find(cookie);
	addr_from4(&dst, ctx->user_ip4);
	port = ctx->user_port;

	e = bpf_sk_storage_get(&exempts, sk, 0, 0);
	if (e) {
		if (exempt_connect(&dst, port) == REFUSE)
			return REFUSE;
		if (pod && wants_loopback_source(e, pod, &dst)) {
			struct sockaddr_in src = { .sin_family = AF_INET };

			src.sin_addr.s_addr = loopback_source(ctx);
			bpf_bind(ctx, (struct sockaddr *)&src, sizeof(src));
		}
		return PASS;
	}
	if (!pod || !pod_captured(pod))
		return PASS;
	via = capture_port(ctx, sk);
	switch (app_connect(sk, pod, cookie, &dst, port, via)) {
	case REFUSE:
		return REFUSE;
	case PASS:
		return PASS;
	case REDIRECT:
		ctx->user_ip4 = pod->ip4.w[3];
		ctx->user_port = bpf_htons(via);
	}
	return PASS;
}

SEC("cgroup/connect6")
int on_connect6(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct exempt *e;
	struct addr dst;
	struct pod *pod;
	__u64 cookie;
	__be16 port;
	__u16 via;

	if (!is_tcp(ctx) || !sk)
		return PASS;
	cookie = bpf_get_netns_cookie(ctx);
	pod = pod_find(cookie);
	dst.w[0] = ctx->user_ip6[0];
	dst.w[1] = ctx->user_ip6[1];
	dst.w[2] = ctx->user_ip6[2];
	dst.w[3] = ctx->user_ip6[3];
	port = ctx->user_port;

	e = bpf_sk_storage_get(&exempts, sk, 0, 0);
	if (e) {
		if (exempt_connect(&dst, port) == REFUSE)
			return REFUSE;
		if (pod && wants_loopback_source(e, pod, &dst)) {
			struct sockaddr_in6 src = { .sin6_family = AF_INET6 };

			src.sin6_addr.s6_addr32[2] = bpf_htonl(0xffff);
			src.sin6_addr.s6_addr32[3] = loopback_source(ctx);
			bpf_bind(ctx, (struct sockaddr *)&src, sizeof(src));
		}
		return PASS;
	}
	if (!pod || !pod_captured(pod))
		return PASS;
	via = capture_port(ctx, sk);
	switch (app_connect(sk, pod, cookie, &dst, port, via)) {
	case REFUSE:
		return REFUSE;
	case PASS:
		return PASS;
	case REDIRECT:
		if (addr_is4(&dst)) {
			/* v4-mapped stays v4-mapped: the socket may have no IPv6 route, nor the pod an address. */
			ctx->user_ip6[3] = pod->ip4.w[3];
		} else {
			ctx->user_ip6[0] = pod->ip6.w[0];
			ctx->user_ip6[1] = pod->ip6.w[1];
			ctx->user_ip6[2] = pod->ip6.w[2];
			ctx->user_ip6[3] = pod->ip6.w[3];
		}
		ctx->user_port = bpf_htons(via);
	}
	return PASS;
}

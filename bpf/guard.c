// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* The guard: no TCP connection begins in a captured pod but from the broker's sockets. It stands at the host's side
 * of the pod's veth, at tcx ingress, where skb->sk is still the sender's whole socket. (At egress inside the pod
 * a packet socket with PACKET_QDISC_BYPASS would go round it.) Marks, uids and addresses exempt nobody. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include "include/packet.h"
#include "include/pod.h"
#include "include/stats.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The cookie of the pod's network namespace. */
volatile const __u64 pod_cookie;

/* Let programs after this one decide; PASS would end the chain. */
#define TCX_NEXT -1
#define TCX_DROP 2

#define TCP_FLAG_SYN 0x02
#define TCP_FLAG_ACK 0x10
#define SOCK_STREAM 1

/* A connection that began before capture and has not been answered yet. */
static __always_inline bool under_way(const struct bpf_sock *sk, const struct pod *pod)
{
	if (!(pod->flags & POD_GRACE) || bpf_ktime_get_ns() - pod->captured_ns > GRACE_NS)
		return false;
	return sk->protocol == IPPROTO_TCP && sk->type == SOCK_STREAM && sk->state == BPF_TCP_SYN_SENT;
}

static __always_inline int drop(enum reason reason)
{
	count(reason);
	return TCX_DROP;
}

static __always_inline int judge_syn(struct __sk_buff *skb, const struct pod *pod, const struct packet *p)
{
	struct bpf_sock *sk = skb->sk;

	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (sk && bpf_sk_storage_get(&exempts, sk, 0, 0))
		return TCX_NEXT;
	if (!p->source_routed && pod_excepted(pod, pod_cookie, &p->dst)) {
		count(REASON_EXCEPTED);
		return TCX_NEXT;
	}
	if (sk && under_way(sk, pod)) {
		count(REASON_GUARD_BEFORE_CAPTURE);
		return TCX_NEXT;
	}
	return drop(REASON_GUARD_NOT_EXEMPT);
}

SEC("tc")
int on_leave(struct __sk_buff *skb)
{
	struct pod *pod = pod_find(pod_cookie);
	struct packet p = {};

	if (!pod || !pod_captured(pod))
		return TCX_NEXT;
	switch (parse(skb, &p)) {
	case FRAME_OTHER:
		return TCX_NEXT;
	case FRAME_UNPARSABLE:
		return drop(REASON_GUARD_UNPARSABLE);
	case FRAME_TCP:
		/* With ACK it answers a connection, or is refused by any listener. */
		if ((p.flags & (TCP_FLAG_SYN | TCP_FLAG_ACK)) != TCP_FLAG_SYN)
			return TCX_NEXT;
		return judge_syn(skb, pod, &p);
	}
	return TCX_NEXT;
}

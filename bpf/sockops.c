// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* sockops: carries addresses from the socket that connects to the one that is accepted, both in one pod.
 * When the SYN leaves, the source port is known and the address goes into the pod's inflight map; when the other
 * side is established it moves into that socket's own storage. A plain look-up by tuple from user space would
 * find the wrong entry as soon as a source port is used again. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include "include/pod.h"
#include "include/stats.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Whether the kernel has bpf_skc_to_mptcp_sock (5.19). Without it, getpeername on an application's MPTCP socket shows
 * the capture port. */
volatile const bool have_mptcp_sock;

/* Both ends of s. On a v4-mapped socket the IPv6 fields are not all filled yet when it connects. s is volatile: clang
 * otherwise merges the reads of two branches into arithmetic on the context's pointer, which the verifier refuses. */
static __always_inline void read_ends(volatile struct bpf_sock_ops *s, struct addr *local, struct addr *remote)
{
	__u32 family = s->family, local4 = s->local_ip4, remote4 = s->remote_ip4;
	struct addr local6 = {{ s->local_ip6[0], s->local_ip6[1], s->local_ip6[2], s->local_ip6[3] }};
	struct addr remote6 = {{ s->remote_ip6[0], s->remote_ip6[1], s->remote_ip6[2], s->remote_ip6[3] }};

	if (family == AF_INET || addr_is4(&remote6)) {
		addr_from4(local, local4);
		addr_from4(remote, remote4);
		return;
	}
	*local = local6;
	*remote = remote6;
}

/* remote_port is the one field of the context in network order, in 32 bits. */
static __always_inline __u16 remote_port(struct bpf_sock_ops *s)
{
	return bpf_ntohl(s->remote_port);
}

static __always_inline void put(void *inflight, const struct flow *flow, const struct sock_endpoint *endpoint)
{
	if (!inflight || bpf_map_update_elem(inflight, flow, endpoint, BPF_ANY))
		count(REASON_NO_STORAGE);
}

/* connect is seen on the subflow, getpeername on the MPTCP socket above it: that one gets a copy. */
static __always_inline void show_on_mptcp(struct bpf_sock *sk, struct peer *peer)
{
	struct peer copy = *peer, *shown;
	void *msk;

	if (!have_mptcp_sock)
		return;
	msk = bpf_skc_to_mptcp_sock(sk);
	if (!msk)
		return;
	shown = bpf_sk_storage_get(&sock_peers, msk, &copy, BPF_SK_STORAGE_GET_F_CREATE);
	if (shown)
		*shown = copy; /* it may have been there from an earlier connect */
}

/* Connecting to the pod's own address: an application's redirected socket leaves its original destination, ztunnel's
 * the client's address. One that leaves nothing takes away what an earlier, refused connection with the same ports
 * may have left. */
static __always_inline void on_syn(struct bpf_sock_ops *s, struct bpf_sock *sk, const struct pod *pod, __u64 cookie)
{
	void *originals = bpf_map_lookup_elem(&orig_dst, &cookie), *clients = bpf_map_lookup_elem(&client_addr, &cookie);
	struct addr local, remote;
	struct flow flow = {};
	struct exempt *e;
	struct peer *peer;

	read_ends(s, &local, &remote);
	if (!pod_owns(pod, &remote))
		return;
	flow.src = local;
	flow.src_port = s->local_port;
	flow.dst_port = remote_port(s);

	e = bpf_sk_storage_get(&exempts, sk, 0, 0);
	if (e && e->has_client) {
		put(clients, &flow, &e->client);
		return;
	}
	peer = e ? NULL : bpf_sk_storage_get(&sock_peers, sk, 0, 0);
	if (peer && peer->via == bpf_htons(flow.dst_port)) {
		put(originals, &flow, &peer->shown);
		show_on_mptcp(sk, peer);
		return;
	}
	if (originals)
		bpf_map_delete_elem(originals, &flow);
	if (clients)
		bpf_map_delete_elem(clients, &flow);
}

/* Accepted in the capture range: ztunnel's socket. */
static __always_inline void take_orig(struct bpf_sock *sk, __u64 cookie, const struct flow *flow)
{
	void *inflight = bpf_map_lookup_elem(&orig_dst, &cookie);
	struct sock_endpoint *found, *kept;

	if (!inflight)
		return;
	found = bpf_map_lookup_elem(inflight, flow);
	if (!found) {
		count(REASON_NO_ORIGINAL_DESTINATION);
		return;
	}
	kept = bpf_sk_storage_get(&sock_origs, sk, found, BPF_SK_STORAGE_GET_F_CREATE);
	if (!kept)
		count(REASON_NO_STORAGE);
	bpf_map_delete_elem(inflight, flow);
}

/* Accepted elsewhere: maybe an application's socket that ztunnel delivers a client to. */
static __always_inline void take_client(struct bpf_sock *sk, __u64 cookie, const struct flow *flow)
{
	void *inflight = bpf_map_lookup_elem(&client_addr, &cookie);
	struct sock_endpoint *found;
	struct peer peer = {};

	if (!inflight)
		return;
	found = bpf_map_lookup_elem(inflight, flow);
	if (!found)
		return;
	peer.shown = *found;
	peer.via = bpf_htons(flow->src_port);
	if (!bpf_sk_storage_get(&sock_peers, sk, &peer, BPF_SK_STORAGE_GET_F_CREATE))
		count(REASON_NO_STORAGE);
	bpf_map_delete_elem(inflight, flow);
}

static __always_inline void on_established(struct bpf_sock_ops *s, struct bpf_sock *sk, __u64 cookie)
{
	struct addr local, remote;
	struct flow flow = {};

	read_ends(s, &local, &remote);
	flow.src = remote;
	flow.src_port = remote_port(s);
	flow.dst_port = s->local_port;
	if (port_capture(flow.dst_port))
		take_orig(sk, cookie, &flow);
	else
		take_client(sk, cookie, &flow);
}

/* Not called sockops: clang 14 fails on a function that has its section's name. */
SEC("sockops")
int on_sockops(struct bpf_sock_ops *s)
{
	struct bpf_sock *sk;
	struct pod *pod;
	__u64 cookie;

	if (s->op != BPF_SOCK_OPS_TCP_CONNECT_CB && s->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 1;
	cookie = bpf_get_netns_cookie(s);
	pod = pod_find(cookie);
	if (!pod)
		return 1;
	sk = s->sk;
	if (!sk)
		return 1;
	if (s->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		on_syn(s, sk, pod, cookie);
	else
		on_established(s, sk, cookie);
	return 1;
}

/* On the kubelet's own cgroup: its probes are known by their exact addresses and ports, from the first SYN until
 * the socket closes. connect4 is too early: the source port is not chosen yet. */
SEC("sockops")
int on_probe(struct bpf_sock_ops *s)
{
	struct tuple tuple = {};
	__u64 now;

	if (s->op != BPF_SOCK_OPS_TCP_CONNECT_CB &&
	    !(s->op == BPF_SOCK_OPS_STATE_CB && s->args[1] == BPF_TCP_CLOSE))
		return 1;
	read_ends(s, &tuple.src, &tuple.dst);
	tuple.src_port = s->local_port;
	tuple.dst_port = remote_port(s);
	if (s->op == BPF_SOCK_OPS_STATE_CB) {
		bpf_map_delete_elem(&probes, &tuple);
		return 1;
	}
	now = bpf_ktime_get_ns();
	bpf_map_update_elem(&probes, &tuple, &now, BPF_ANY);
	bpf_sock_ops_cb_flags_set(s, s->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	return 1;
}

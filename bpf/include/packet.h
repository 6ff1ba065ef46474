/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Finds the TCP header of a frame. Reads by bpf_skb_load_bytes, so a frame in pieces is no way round. The question
 * is always: could the receiver take this for a TCP SYN? In doubt the frame is UNPARSABLE. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include "addr.h"

#define VLAN_TAGS_MAX 4
#define EXTENSIONS_MAX 8
/* Bytes of the TCP header up to and with the flags. */
#define TCP_FLAGS_END 14
#define IP_OFFSET_MASK 0x1fff

enum frame {
	FRAME_OTHER, /* not TCP, or a fragment that can't touch the flags */
	FRAME_TCP,
	FRAME_UNPARSABLE,
};

struct packet {
	struct addr dst;
	__u32 flags; /* byte 13 of the TCP header */
	bool source_routed; /* dst is only the next hop */
};

struct vlan {
	__be16 tci;
	__be16 proto;
};

/* Steps over the tags that the kernel has not taken off yet; it takes one off before this hook, and the next
 * one after it. Returns the network header's offset, 0 if there are too many tags. */
static __always_inline __u32 network_offset(struct __sk_buff *skb, __be16 *proto)
{
	__u32 off = ETH_HLEN;
	struct vlan tag;

	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_proto), proto, sizeof(*proto)))
		return 0;
	for (int i = 0; i < VLAN_TAGS_MAX; i++) {
		if (*proto != bpf_htons(ETH_P_8021Q) && *proto != bpf_htons(ETH_P_8021AD))
			return off;
		if (bpf_skb_load_bytes(skb, off, &tag, sizeof(tag)))
			return 0;
		*proto = tag.proto;
		off += sizeof(tag);
	}
	return 0;
}

/* room is what the IP header says follows, 0 for "not said" (packets beyond 64 KiB, which only the kernel
 * makes). A frame longer than its packet must not lend it bytes. */
static __always_inline enum frame tcp_flags(struct __sk_buff *skb, __u32 off, __u32 room, struct packet *p)
{
	__u8 flags;

	if ((room && room < TCP_FLAGS_END) || bpf_skb_load_bytes(skb, off + TCP_FLAGS_END - 1, &flags, 1))
		return FRAME_UNPARSABLE;
	p->flags = flags;
	return FRAME_TCP;
}

/* A later fragment, offset in units of 8 bytes. The first one was seen with all bytes up to the flags, or was
 * dropped; only an offset of 8 bytes could write over them. */
static __always_inline enum frame later_fragment(__u32 units)
{
	return units * 8 < TCP_FLAGS_END ? FRAME_UNPARSABLE : FRAME_OTHER;
}

static __always_inline enum frame parse_ipv4(struct __sk_buff *skb, __u32 off, struct packet *p)
{
	struct iphdr ip;
	__u32 len, total, units;

	if (bpf_skb_load_bytes(skb, off, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return FRAME_UNPARSABLE;
	if (ip.protocol != IPPROTO_TCP)
		return FRAME_OTHER;
	units = bpf_ntohs(ip.frag_off) & IP_OFFSET_MASK;
	if (units)
		return later_fragment(units);
	addr_from4(&p->dst, ip.daddr);
	len = ip.ihl * 4;
	p->source_routed = len > sizeof(ip);
	total = bpf_ntohs(ip.tot_len);
	if (total && total <= len)
		return FRAME_UNPARSABLE;
	return tcp_flags(skb, off + len, total ? total - len : 0, p);
}

static __always_inline bool is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS ||
	       next == IPPROTO_FRAGMENT || next == IPPROTO_AH || next == IPPROTO_MH || next == 139 /* HIP */ ||
	       next == 140 /* Shim6 */;
}

struct fragment {
	__u8 next;
	__u8 reserved;
	__be16 offset; /* in units of 8 in the upper 13 bits */
	__be32 id;
};

/* RFC 7112: the first fragment holds the whole chain of headers; one that doesn't is dropped. With further
 * headers after the fragment header the TCP header's place is known to the first fragment alone.
 * A global function, for the verifier reads those once, not once per depth of VLAN tags: each pod loads this program. */
__noinline int parse_ipv6(struct __sk_buff *skb, __u32 off, struct packet *p)
{
	__u32 end, at = off + sizeof(struct ipv6hdr);
	bool fragmented = false;
	struct fragment frag;
	struct ipv6hdr ip;
	__u8 next, ext[2];

	if (!p || bpf_skb_load_bytes(skb, off, &ip, sizeof(ip)) || ip.version != 6)
		return FRAME_UNPARSABLE;
	__builtin_memcpy(&p->dst, &ip.daddr, sizeof(p->dst));
	end = ip.payload_len ? at + bpf_ntohs(ip.payload_len) : 0;
	next = ip.nexthdr;
	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		if (next == IPPROTO_TCP) {
			if (end && end <= at)
				return FRAME_UNPARSABLE;
			return tcp_flags(skb, at, end ? end - at : 0, p);
		}
		if (!is_extension(next))
			return FRAME_OTHER;
		if (next == IPPROTO_FRAGMENT) {
			if (fragmented || bpf_skb_load_bytes(skb, at, &frag, sizeof(frag)))
				return FRAME_UNPARSABLE;
			fragmented = true;
			next = frag.next;
			at += sizeof(frag);
			if (!(bpf_ntohs(frag.offset) >> 3))
				continue;
			if (next == IPPROTO_TCP)
				return later_fragment(bpf_ntohs(frag.offset) >> 3);
			return is_extension(next) ? FRAME_UNPARSABLE : FRAME_OTHER;
		}
		if (bpf_skb_load_bytes(skb, at, ext, sizeof(ext)))
			return FRAME_UNPARSABLE;
		p->source_routed |= next == IPPROTO_ROUTING;
		at += next == IPPROTO_AH ? (ext[1] + 2) * 4 : (ext[1] + 1) * 8;
		next = ext[0];
	}
	return FRAME_UNPARSABLE;
}

static __always_inline enum frame parse(struct __sk_buff *skb, struct packet *p)
{
	__be16 proto = 0;
	__u32 off = network_offset(skb, &proto);

	if (!off)
		return FRAME_UNPARSABLE;
	if (proto == bpf_htons(ETH_P_IP))
		return parse_ipv4(skb, off, p);
	if (proto == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(skb, off, p);
	return FRAME_OTHER;
}

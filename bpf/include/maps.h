/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every map that several programs share. Each object carries all of them; the loader makes them once, pins
 * them, and gives them to every object it loads (MapReplacements). */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "types.h"

/* Captured pods by netns cookie: not in here means that no program acts. Not pre-allocated: 4,096 are few
 * when used and nothing when not. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PODS_MAX);
	__type(key, __u64);
	__type(value, struct pod);
} pods SEC(".maps");

/* The pattern of the maps inside orig_dst and client_addr; never created itself. It is an object of its own
 * because clang 14 leaves types that only an inner map names undefined in BTF. */
struct inflight {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, INFLIGHT_MAX);
	__type(key, struct flow);
	__type(value, struct sock_endpoint);
} inflight SEC(".maps");

/* Original destinations between an app's connect and ztunnel's accept. One inner map per pod, so that a busy
 * pod evicts only its own entries. The capture port is part of the key: the kernel gives one source port to
 * connections towards several capture ports at once. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, PODS_MAX);
	__type(key, __u64);
	__array(values, struct inflight);
} orig_dst SEC(".maps");

/* Clients' addresses between ztunnel's connect and the app's accept, likewise. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, PODS_MAX);
	__type(key, __u64);
	__array(values, struct inflight);
} client_addr SEC(".maps");

/* On sockets the broker made. Unlike a mark, it can't be set without this map's descriptor. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct exempt);
} exempts SEC(".maps");

/* On applications' sockets: the peer they are shown. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct peer);
} sock_peers SEC(".maps");

/* On ztunnel's accepted outbound sockets: where the application wanted to go. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sock_endpoint);
} sock_origs SEC(".maps");

/* Destinations never captured, shared by connect and guard. Link-local is built in. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, EXCEPTIONS_MAX);
	__type(key, struct exception);
	__type(value, __u32);
} exceptions SEC(".maps");

/* The same of single pods, whose flags say whether they have any. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, POD_EXCEPTIONS_MAX);
	__type(key, struct pod_exception);
	__type(value, __u32);
} pod_exceptions SEC(".maps");

/* Connections noted from the kubelet; the value is when, CLOCK_MONOTONIC. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PROBES_MAX);
	__type(key, struct tuple);
	__type(value, __u64);
} probes SEC(".maps");

/* How often each reason (enum reason) applied. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STATS_MAX);
	__type(key, __u32);
	__type(value, __u64);
} stats SEC(".maps");

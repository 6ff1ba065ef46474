/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Numbers of the contract between kernel and user space. */
#pragma once

/* Ports; mesh/broker has the same in Go, and a test compares them. */
#define PORT_OUTBOUND 15001
#define PORT_PLAINTEXT 15006
#define PORT_HBONE 15008
#define PORT_DNS 15053
/* Connects are spread over 64 ports: from one address to one port there are only about 28,000 connections,
 * TIME_WAIT included. A power of two, above the default ephemeral range. */
#define CAPTURE_FIRST 61000
#define CAPTURE_PORTS 64

/* The socket option by which an unprivileged ztunnel learns and tells addresses: "WR". */
#define SOCKOPT_LEVEL 0x5752
#define SOCKOPT_ORIGINAL_DESTINATION 1
#define SOCKOPT_CLIENT_ADDRESS 2

/* Entries on their way from connect to accept, per pod. One that is evicted is a connection refused. */
#define INFLIGHT_MAX 4096
#define PODS_MAX 4096
#define EXCEPTIONS_MAX 1024
/* Of one pod, so that there is room for every pod's. */
#define POD_EXCEPTIONS_EACH 16
#define POD_EXCEPTIONS_MAX (PODS_MAX * POD_EXCEPTIONS_EACH)
#define PROBES_MAX 4096
/* More than there are reasons, so that a newer reason does not change the pinned map. */
#define STATS_MAX 256

/* A SYN sent before capture may be repeated once: the first retransmission comes after 1 s. */
#define GRACE_NS 1100000000ULL
/* How long a kubelet's connection is recognised: its SYN may be repeated three times. */
#define PROBE_NS 10000000000ULL

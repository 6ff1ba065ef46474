/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

#include "maps.h"
#include "reasons.h"

/* Per-CPU arrays are pre-allocated, so a miss means a reason beyond STATS_MAX: impossible. */
static __always_inline void count(__u32 reason)
{
	__u64 *n = bpf_map_lookup_elem(&stats, &reason);

	if (n)
		(*n)++;
}

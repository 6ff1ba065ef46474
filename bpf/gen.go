// SPDX-License-Identifier: Apache-2.0

package bpf

// Compiler and flags come from BPF2GO_CC and BPF2GO_CFLAGS, as the README tells. One object serves amd64 and
// arm64: nothing in it depends on the architecture.
//
//go:generate go tool bpf2go -target bpfel -no-global-types connect connect.c
//go:generate go tool bpf2go -target bpfel -no-global-types getpeername getpeername.c
//go:generate go tool bpf2go -target bpfel -type pod -type addr -type sock_endpoint -type flow -type peer -type exempt -type tuple -type exception -type pod_exception sockops sockops.c
//go:generate go tool bpf2go -target bpfel -no-global-types sockopt sockopt.c
//go:generate go tool bpf2go -target bpfel -no-global-types lookup sk_lookup.c
//go:generate go tool bpf2go -target bpfel -no-global-types guard guard.c

// SPDX-License-Identifier: Apache-2.0

// Package bpf is Warren's part in the kernel: the C programs, their generated bindings, and the loader that
// attaches, pins, updates, verifies and removes them. Nothing else in Warren talks to bpf(2).
//
// A Datapath belongs to one node. Programs at the node's pods cgroup are attached once by Load; each pod adds an
// sk_lookup program in its network namespace (AttachPod) and a guard on the host's side of its veth
// (AttachGuard). None of them acts for a pod before Enable has put it into the map pods.
//
//	d, err := bpf.Load(bpf.Config{BPFFS: "/sys/fs/bpf", Cgroup: "/sys/fs/cgroup/kubepods"})
//	err = d.AttachPod(pod, netnsFD, listeners) // steers nothing yet
//	err = d.Enable(pod)                        // capture begins
//	err = d.AttachGuard(pod.Cookie, ifindex)   // nothing leaves but through ztunnel
//
// Everything is pinned below <BPFFS>/warren/v<ABI>: when the process ends, the programs stay and captured
// connections are refused rather than let through, until the next Load takes the pins over.
package bpf

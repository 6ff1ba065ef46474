// SPDX-License-Identifier: Apache-2.0

// Package demo shows Warren at work: two nodes, the sample shop on both, a client outside the mesh, the same purchases
// before the shop is in the mesh, in it, and under STRICT.
//
// What it prints is read back: from the access logs and metrics of the ztunnels, from the kernel's counters, from what
// the nodes publish, and from the packets between the nodes. Each line begins with where it was read. What it expects
// to read is checked afterwards, and a difference is a failure.
package demo

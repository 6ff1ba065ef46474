// SPDX-License-Identifier: Apache-2.0

// Package demo tells what Warren does by an example: the sample shop, a client outside the mesh, and the same purchases
// before the shop is in the mesh, in it, and under STRICT.
//
// What it prints is read back: from the access logs and metrics of the ztunnels, from the kernel's counters, from what
// the nodes publish, and from the packets between the nodes. Each line begins with where it was read. What it expects
// to read is checked afterwards, and a difference is a failure. Where all this runs is the Bed's affair: tests/netns/demo has one,
// tests/e2e/demo another.
package demo

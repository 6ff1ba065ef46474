// SPDX-License-Identifier: Apache-2.0

// Package agent decides which of its node's pods are captured and tells the others: the broker, which
// carries it out in the kernel; ztunnel, which serves the pods (ZDS) and learns the mesh (WDS); and the
// rest of the mesh, by publishing what is captured. It holds no privilege and no key.
//
// What to do next is a pure function over the tracked pods (plan); the loop in agent.go carries it out.
package agent

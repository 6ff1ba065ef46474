// SPDX-License-Identifier: Apache-2.0

// Package packets records what really goes over a link, for tests and the demo: TCP streams put back in order, and
// whether they are TLS or contain what nobody on the way should be able to read.
package packets

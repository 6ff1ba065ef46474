// SPDX-License-Identifier: Apache-2.0

// Package policy holds what AuthorizationPolicy and PeerAuthentication mean, read from their documentation and from
// nothing of this repository, and compares with it what becomes of them on their way to a ztunnel.
package policy

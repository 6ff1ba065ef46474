// SPDX-License-Identifier: Apache-2.0

// Package hbone carries application connections as HTTP/2 CONNECT streams over mutual TLS: its own stream layer
// for both roles (RFC 9113, only what CONNECT needs), and a pool of client connections.
//
// One goroutine reads each connection; it writes neither to the tunnel nor, if that would wait, to an application.
// Whoever calls Write or ReadFrom seals and writes the tunnel's records himself. Small frames of all streams are
// appended to one pending buffer and leave together; large ones leave in batches of slots. A stream that is idle
// holds no buffer.
//
// Received bytes give connection credit on receipt and stream credit on delivery, so a slow reader stops its own
// stream and no other. How windows grow is told at type window.
package hbone

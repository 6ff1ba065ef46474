// SPDX-License-Identifier: Apache-2.0

// Package tracing makes a span of a connection, and brings spans to an OpenTelemetry collector (OTLP over gRPC) and to
// a Zipkin server (v2 JSON). The two ends of one connection share a trace: the client's ztunnel names it in CONNECT,
// by W3C Trace Context.
//
// A connection never waits for a span: what a full queue can't take is dropped and counted. While no connection is
// to have one, there are neither goroutines nor queues.
//
// The OpenTelemetry SDK is not here. One of its providers speaks for one resource, and this process speaks for every
// pod of its node; its exporter reads environment and files when it is made, which a sealed process may not; and it
// would make the program 2 MB larger. The messages are the protocol's own.
package tracing

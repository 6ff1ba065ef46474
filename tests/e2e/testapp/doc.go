// SPDX-License-Identifier: Apache-2.0

// Command testapp (in its image: warren-testapp) is the one application that the tests run in pods, server and client.
//
//	serve [-drain 0s] PROTOCOL=ADDRESS...   serve until SIGTERM, then for the drain's time
//	    echo    says "peer ADDR pod NAME", then sends back what comes, to the end
//	    first   says "220 NAME ready" at once, then reads to the end
//	    sink    reads to the end
//	    reset   reads a line, then resets
//	    half    says "bye", closes its half, then reads to the end
//	    http    HTTP/1.1 and HTTP/2 without TLS: answer.HTTP; ?status=503, ?sleep=1s, ?bytes=1000000,
//	            ?host=a.b (421 for another)
//	    tls     the same over TLS with a certificate of its own
//	    webhook an admission webhook that denies everything; certificate in /certs
//	    grpc    grpc.health.v1.Health/Check: SERVING
//	heard                       what came to the server in this pod: []answer.Heard
//	talk [flags] ADDRESS LINE   one conversation with echo: answer.Talk
//	    -network tcp|tcp4|tcp6  -timeout 10s  -from ADDRESS (local)  -bytes N (sent after the line)
//	    -stay       do not end when done: for a container
//	    -retry D    until it succeeds, this long
//	end [flags] ADDRESS [LINE]  connect, send the line if any, read to the end: answer.Talk; flags as talk's
//	get [flags] URL             one request: the body, or an error and status 1; -network -timeout -h2c -insecure
//	load [flags] TARGET...      requests until standard input or -for ends, or SIGTERM, or every target is a connection
//	                            that was held and is lost: answer.Load
//	    TARGET is http://..., echo://host:port (a conversation), or hold://host:port (a connection that stays and
//	    is asked again and again); taken in turns
//	    -every 10ms (0: as fast as it goes)  -workers 4  -for D  -network  -timeout 5s  -keep (HTTP connections)
//	    -line TEXT  what is sent
//	escape connect FROM TO LINE            every way to connect to the echo server TO: []answer.Escape
//	escape -next MAC packets FROM TO TEXT  a SYN by every way past connect, then a packet that may pass
//	pods NAMESPACE              lists pods with client-go: their names
//	sleep D                     for preStop
//	exit STATUS
//	cat FILE
package main

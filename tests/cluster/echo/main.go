// SPDX-License-Identifier: Apache-2.0

// Command echo is what the harness's own test runs in pods: a server that says who it is and who asks, and a client.
//
//	echo serve ADDRESS        HTTP server
//	echo get tcp4|tcp6 URL    prints the answer
//	echo exit STATUS
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

func main() {
	status, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		status = 1
	}
	os.Exit(status)
}

func run(args []string) (int, error) {
	switch {
	case len(args) == 2 && args[0] == "serve":
		return 0, serve(args[1])
	case len(args) == 3 && args[0] == "get":
		return 0, get(args[1], args[2])
	case len(args) == 2 && args[0] == "exit":
		return strconv.Atoi(args[1])
	}
	return 2, fmt.Errorf("want serve, get or exit")
}

func serve(address string) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("ask for own name: %w", err)
	}
	fmt.Println("serving as", host)
	return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "%s %s", host, client)
	}))
}

func get(network, url string) error {
	dialer := net.Dialer{Timeout: 2 * time.Second}
	client := http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		}}}
	r, err := client.Get(url)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(os.Stdout, r.Body)
	return err
}

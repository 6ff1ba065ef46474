// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
)

// roleVariable tells a re-executed binary which part it plays in a pod. Unset: none.
const roleVariable = "WARREN_BENCH_ROLE"

const (
	roleServe   = "serve"   // the application that answers; its argument is an address
	roleLoad    = "load"    // the application that asks; its argument is an order
	roleCollect = "collect" // takes spans; its argument is an address
)

// play does not return in a binary that plays a part.
func play() {
	parts := map[string]func(string) error{roleServe: serve, roleLoad: load, roleCollect: collect}
	part := parts[os.Getenv(roleVariable)]
	if part == nil {
		return
	}
	done := make(chan error)
	go func() { done <- part(os.Args[1]) }() // the main goroutine is bound to its thread, and slow
	if err := <-done; err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

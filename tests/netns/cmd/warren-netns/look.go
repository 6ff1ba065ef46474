// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/warren-mesh/warren/tests/demo"
	"github.com/warren-mesh/warren/tests/netns"
)

// get fetches a URL from inside a pod, where localhost is the pod itself.
func get(args []string, stdout io.Writer) error {
	if len(args) != 2 {
		return errors.New("usage: warren-netns get POD URL")
	}
	return execute([]string{args[0], "/proc/self/exe", "fetch", args[1]}, stdout)
}

// fetch is get's other half: it runs in the pod.
func fetch(args []string, stdout io.Writer) error {
	if len(args) != 1 {
		return errors.New("usage: warren-netns fetch URL")
	}
	client := &http.Client{Timeout: 10 * time.Second}
	response, err := client.Get(args[0])
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(stdout, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

// wire records what goes over the wire between the nodes, and prints one line for each pair that talked, with the first
// bytes of it.
func wire(args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("wire", flag.ContinueOnError)
	d := fs.Duration("for", 5*time.Second, "how long to listen")
	find := fs.String("find", "", "a text to look for")
	if err := fs.Parse(args); err != nil {
		return err
	}
	s, err := loadState()
	if err != nil {
		return err
	}
	c, err := s.Capture()
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt)
	select {
	case <-stop:
	case <-time.After(*d):
	}
	c.Stop()
	if err := c.Err(); err != nil {
		return err
	}
	var markers []string
	if *find != "" {
		markers = []string{*find}
	}
	for _, t := range demo.Summarize(c, func(a netip.Addr) string { return nameOf(s, a) }, markers...) {
		fmt.Fprintf(stdout, "%s -> %s:%d  %d connections, %d B there, %d B back: %s\n", t.Client, t.Server, t.Port, t.Connections, t.Sent, t.Answered, t.Is())
		if *find != "" {
			fmt.Fprintf(stdout, "    %q is readable in %d\n", *find, t.Carried[*find])
		}
		if len(t.First) > 0 {
			fmt.Fprintf(stdout, "    %s\n", strings.TrimSpace(hex.Dump(t.First[:min(16, len(t.First))])))
		}
	}
	return nil
}

// nameOf is the pod's or node's that has the address.
func nameOf(s netns.State, a netip.Addr) string {
	for _, m := range append(s.Pods, s.Nodes...) {
		if m.IPv4 == a || m.IPv6 == a {
			return m.Name
		}
	}
	return a.String()
}

// SPDX-License-Identifier: Apache-2.0

// Command warren-netns keeps a whole mesh running on this machine: nodes and pods as network namespaces, Warren in
// them, without Kubernetes.
//
//	warren-netns up [-f topology.yaml] [-plain]   starts it, and returns when everything is ready
//	warren-netns status                           nodes, pods, addresses, what is captured
//	warren-netns exec POD -- COMMAND              runs a command in a pod (NAME or NAMESPACE/NAME) or node (node/NAME)
//	warren-netns get POD URL                      fetches a URL inside a pod, where localhost is the pod
//	warren-netns wire [-for 5s] [-find TEXT]      what goes over the wire between the nodes
//	warren-netns demo                             a mesh with the sample shop on it, and a report of what happens there
//	warren-netns down                             stops it, and says what was left behind
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/warren-mesh/warren/tests/netns"
)

func main() {
	netns.Init()
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

const usage = `usage: warren-netns up [-f topology.yaml] [-plain] | status | exec POD -- COMMAND |
                    get POD URL | wire [-for 5s] [-find TEXT] | demo | down
`

func run(args []string, stdout, stderr io.Writer) int {
	commands := map[string]func([]string, io.Writer) error{
		"up": up, "down": down, "status": status, "exec": execute, "keep": keep,
		"get": get, "fetch": fetch, "wire": wire, "demo": runDemo, "keep-demo": keepDemo,
	}
	if len(args) == 0 || commands[args[0]] == nil {
		fmt.Fprint(stderr, usage)
		return 2
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(stderr, "warren-netns: network namespaces and kernel programs need root (sudo warren-netns …)")
		return 1
	}
	err := commands[args[0]](args[1:], stdout)
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.Is(err, flag.ErrHelp):
		return 2
	}
	fmt.Fprintln(stderr, "warren-netns:", err)
	return 1
}

// exitCode is a command's own exit status, passed on.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit status %d", int(c)) }

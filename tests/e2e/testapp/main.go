// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

func main() {
	status, err := run(os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testapp:", err)
		status = max(status, 1)
	}
	os.Exit(status)
}

// run does what the first argument says and returns the exit status.
func run(args []string, out io.Writer) (int, error) {
	if len(args) == 0 {
		return 2, errors.New("want a verb")
	}
	verb, args := args[0], args[1:]
	switch verb {
	case "serve":
		return 0, serve(args)
	case "heard":
		return 0, askHeard(out)
	case "talk", "end":
		return 0, talk(verb, args, out)
	case "get":
		return 0, get(args, out)
	case "load":
		return 0, load(args, out)
	case "escape":
		return 0, escapes(args, out)
	}
	if len(args) != 1 {
		return 2, fmt.Errorf("%s: unknown, or not one argument", verb)
	}
	switch verb {
	case "sleep":
		d, err := time.ParseDuration(args[0])
		time.Sleep(d)
		return 0, err
	case "exit":
		return strconv.Atoi(args[0])
	case "pods":
		return 0, listPods(args[0], out)
	case "cat":
		b, err := os.ReadFile(args[0])
		_, _ = out.Write(b)
		return 0, err
	}
	return 2, fmt.Errorf("%s: unknown verb", verb)
}

func print(out io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = fmt.Fprintf(out, "%s\n", b)
	}
	return err
}

// SPDX-License-Identifier: Apache-2.0

// Command configdump prints a ztunnel's config_dump from standard input by the code of `istioctl ztunnel-config`, which
// it links without the rest of istioctl and its two thousand packages.
//
//	configdump workload|service|policy|certificate|connections|all [json]
package main

import (
	"fmt"
	"io"
	"os"

	"istio.io/istio/istioctl/pkg/writer/ztunnel/configdump"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "configdump:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("want what to print")
	}
	b, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	w := &configdump.ConfigWriter{Stdout: os.Stdout, FullDump: b}
	if err := w.Prime(b); err != nil {
		return err
	}
	asJSON := len(args) > 1
	summary, dump := printers(w, args[0])
	switch {
	case summary == nil:
		return fmt.Errorf("can't print %q", args[0])
	case asJSON:
		return dump("json")
	}
	return summary()
}

func printers(w *configdump.ConfigWriter, what string) (summary func() error, dump func(format string) error) {
	switch what {
	case "workload":
		return func() error { return w.PrintWorkloadSummary(configdump.WorkloadFilter{}) }, func(f string) error { return w.PrintWorkloadDump(configdump.WorkloadFilter{}, f) }
	case "service":
		return func() error { return w.PrintServiceSummary(configdump.ServiceFilter{}) }, func(f string) error { return w.PrintServiceDump(configdump.ServiceFilter{}, f) }
	case "policy":
		return func() error { return w.PrintPolicySummary(configdump.PolicyFilter{}) }, func(f string) error { return w.PrintPolicyDump(configdump.PolicyFilter{}, f) }
	case "certificate":
		return w.PrintSecretSummary, w.PrintSecretDump
	case "connections":
		return func() error { return w.PrintConnectionsSummary(configdump.ConnectionsFilter{}) }, func(f string) error { return w.PrintConnectionsDump(configdump.ConnectionsFilter{}, f) }
	case "all":
		return func() error { return w.PrintFullSummary(true) }, w.PrintFullDump
	}
	return nil, nil
}

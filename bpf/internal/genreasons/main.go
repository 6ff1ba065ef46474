// SPDX-License-Identifier: Apache-2.0

// Command genreasons makes the C enum and the Go constants from reasons.yaml.
//
// Usage: genreasons reasons.yaml reasons.h reasons_gen.go
package main

import (
	"bytes"
	"fmt"
	"go/format"
	"os"
	"strings"

	"sigs.k8s.io/yaml"
)

type reason struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	Text string `json:"text"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "genreasons:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("usage: genreasons reasons.yaml reasons.h reasons_gen.go")
	}
	raw, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var table []reason
	if err := yaml.UnmarshalStrict(raw, &table); err != nil {
		return fmt.Errorf("parse %s: %w", args[0], err)
	}
	if err := os.WriteFile(args[1], cHeader(table), 0o644); err != nil {
		return err
	}
	src, err := goSource(table)
	if err != nil {
		return err
	}
	return os.WriteFile(args[2], src, 0o644)
}

func cHeader(table []reason) []byte {
	var b bytes.Buffer
	b.WriteString("/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */\n")
	b.WriteString("/* Code generated from reasons.yaml; DO NOT EDIT. */\n#pragma once\n\nenum reason {\n")
	for i, r := range table {
		fmt.Fprintf(&b, "\tREASON_%s = %d, /* %s */\n", r.Name, i, r.Text)
	}
	fmt.Fprintf(&b, "\tREASON_MAX = %d,\n};\n", len(table))
	return b.Bytes()
}

var kinds = map[string]string{"drop": "Drop", "pass": "Pass", "carry": "Carry"}

func goSource(table []reason) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("// SPDX-License-Identifier: Apache-2.0\n// Code generated from bpf/reasons.yaml; DO NOT EDIT.\n\npackage reason\n\nconst (\n")
	for i, r := range table {
		fmt.Fprintf(&b, "\t// %s: %s.\n\t%s Reason = %d\n", goName(r.Name), r.Text, goName(r.Name), i)
	}
	fmt.Fprintf(&b, ")\n\n// Max is the number of reasons; valid reasons lie in [0, Max).\nconst Max = %d\n\nvar table = [Max]entry{\n", len(table))
	for _, r := range table {
		k, ok := kinds[r.Kind]
		if !ok {
			return nil, fmt.Errorf("reason %s: unknown kind %q", r.Name, r.Kind)
		}
		fmt.Fprintf(&b, "\t%s: {%q, %s, %q},\n", goName(r.Name), r.Name, k, r.Text)
	}
	b.WriteString("}\n")
	return format.Source(b.Bytes())
}

var initialisms = map[string]string{"HBONE": "HBONE", "DNS": "DNS", "TLS": "TLS", "MTLS": "MTLS"}

func goName(word string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(word, "_") {
		if s, ok := initialisms[part]; ok {
			b.WriteString(s)
			continue
		}
		b.WriteString(part[:1] + strings.ToLower(part[1:]))
	}
	return b.String()
}

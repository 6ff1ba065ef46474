// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	sigsyaml "sigs.k8s.io/yaml"
)

// maxFile bounds a manifest in bytes; what is larger is refused unread.
const maxFile = 8 << 20

// document is one YAML document of a file, or one item of a List in it.
type document struct {
	file string
	line int        // of its first line in the file, from 1
	node *yaml.Node // nil when it can't be parsed
	json []byte
	err  error
}

// split cuts a file at its document markers. A marker is "---" at the beginning of a line; inside a block
// scalar YAML itself takes it for one, so no parsing is needed to find them.
func split(file string, data []byte) []document {
	var docs []document
	start, startLine, line := 0, 1, 0
	cut := func(end int) {
		if text := data[start:end]; !blank(text) {
			docs = append(docs, parse(file, startLine, text)...)
		}
	}
	for at := 0; at < len(data); {
		line++
		end := len(data)
		if i := bytes.IndexByte(data[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		if marker(data[at:end]) {
			cut(at)
			start, startLine = at, line
		}
		at = end
	}
	cut(len(data))
	return docs
}

func marker(line []byte) bool {
	return bytes.HasPrefix(line, []byte("---")) && (len(line) == 3 || strings.ContainsRune(" \t\r\n", rune(line[3])))
}

// blank reports whether a document holds nothing but comments and its marker.
func blank(text []byte) bool {
	for l := range bytes.Lines(text) {
		l = bytes.TrimSpace(l)
		if len(l) > 0 && l[0] != '#' && !bytes.Equal(l, []byte("---")) {
			return false
		}
	}
	return true
}

// parse reads one document. A List (as kubectl get -o yaml prints) gives one document per item.
func parse(file string, line int, text []byte) []document {
	d := document{file: file, line: line}
	j, err := toJSON(text)
	if err != nil {
		d.line, d.err = yamlError(err, line)
		return []document{d}
	}
	if string(j) == "null" {
		return nil
	}
	d.json = j
	var root yaml.Node
	if yaml.Unmarshal(text, &root) == nil && len(root.Content) == 1 {
		d.node = root.Content[0]
		d.line = line + d.node.Line - 1
		shift(d.node, line-1)
	}
	var list struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Items      []json.RawMessage `json:"items"`
	}
	if json.Unmarshal(j, &list) != nil || list.Kind != "List" || list.APIVersion != "v1" {
		return []document{d}
	}
	docs := make([]document, 0, len(list.Items))
	for i, item := range list.Items {
		n := at(d.node, "items["+strconv.Itoa(i)+"]")
		it := document{file: file, line: d.line, node: n, json: item}
		if n != nil {
			it.line = n.Line
		}
		docs = append(docs, it)
	}
	return docs
}

// toJSON reads YAML as Kubernetes does (YAML 1.1 scalars, a key at most once). The reader's panics on hostile
// input become errors: a manifest must not be able to end the process.
func toJSON(text []byte) (j []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("read YAML: %v", r)
		}
	}()
	return sigsyaml.YAMLToJSONStrict(text)
}

// yamlError moves the line a YAML error names, if any, into the file's count.
func yamlError(err error, line int) (int, error) {
	msg := strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")
	msg = strings.Join(strings.Fields(msg), " ")
	if _, rest, ok := strings.Cut(msg, "line "); ok {
		digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
		if n, e := strconv.Atoi(digits); e == nil && n > 0 {
			return line + n - 1, errors.New(strings.Replace(msg, "line "+digits, "line "+strconv.Itoa(line+n-1), 1))
		}
	}
	return line, errors.New(msg)
}

// shift adds to every line number below n.
func shift(n *yaml.Node, by int) {
	n.Line += by
	for _, c := range n.Content {
		shift(c, by)
	}
}

// source is "file:line" of a field, or of the nearest thing above it that is there.
func (d *document) source(field string) string {
	line := d.line
	if n := at(d.node, field); n != nil {
		line = n.Line
	}
	return d.file + ":" + strconv.Itoa(line)
}

// at walks a path such as spec.ports[0].name or metadata.labels[warren.dev/mesh] as far as it leads.
func at(n *yaml.Node, path string) *yaml.Node {
	for n != nil && path != "" {
		var key string
		if path[0] == '[' {
			key, path, _ = strings.Cut(path[1:], "]")
		} else if i := strings.IndexAny(path, ".["); i >= 0 {
			key, path = path[:i], path[i:]
		} else {
			key, path = path, ""
		}
		path = strings.TrimPrefix(path, ".")
		next := child(n, key)
		if next == nil {
			return n
		}
		n = next
	}
	return n
}

func child(n *yaml.Node, key string) *yaml.Node {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return valueOf(n.Content[i], n.Content[i+1])
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i]
		}
	}
	return nil
}

// valueOf is the value with its key's line, which is where a reader looks.
func valueOf(key, value *yaml.Node) *yaml.Node {
	v := *value
	v.Line = key.Line
	return &v
}

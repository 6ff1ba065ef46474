// SPDX-License-Identifier: Apache-2.0

package tests

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/mesh"
)

// schema is the part of an OpenAPI schema that the tests look at.
type schema struct {
	Type        string
	Description string
	Properties  map[string]schema
	Items       *schema
	Default     any
	Enum        []string
	Required    []string
}

// meshConfigSchema is the schema of the CustomResourceDefinition that is shipped.
func meshConfigSchema(t *testing.T) schema {
	t.Helper()
	b, err := os.ReadFile("../deploy/chart/warren/crds/meshconfigs.warren.dev.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd struct {
		Spec struct {
			Group    string
			Scope    string
			Versions []struct {
				Name   string
				Schema struct {
					OpenAPIV3Schema schema `json:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(b, &crd); err != nil {
		t.Fatal(err)
	}
	v := crd.Spec.Versions
	if len(v) != 1 || v[0].Name != v1alpha1.GroupVersion.Version || crd.Spec.Group != v1alpha1.GroupVersion.Group || crd.Spec.Scope != "Cluster" {
		t.Fatalf("group %s, scope %s, versions %+v", crd.Spec.Group, crd.Spec.Scope, v)
	}
	return v[0].Schema.OpenAPIV3Schema
}

// TestMeshConfigTypes: the CustomResourceDefinition has the fields of the Go types, and no others, of the same kinds.
func TestMeshConfigTypes(t *testing.T) {
	root := meshConfigSchema(t)
	sameFields(t, "spec", root.Properties["spec"], reflect.TypeFor[v1alpha1.MeshConfigSpec]())
	sameFields(t, "status", root.Properties["status"], reflect.TypeFor[v1alpha1.MeshConfigStatus]())
}

func sameFields(t *testing.T, path string, s schema, g reflect.Type) {
	t.Helper()
	if g.Kind() == reflect.Pointer {
		g = g.Elem()
	}
	kinds := map[reflect.Kind]string{reflect.String: "string", reflect.Bool: "boolean", reflect.Int64: "integer", reflect.Float64: "number", reflect.Slice: "array", reflect.Struct: "object"}
	if s.Type != kinds[g.Kind()] {
		t.Errorf("%s: %s in the definition, %v in Go", path, s.Type, g)
		return
	}
	switch g.Kind() {
	case reflect.Slice:
		sameFields(t, path+"[]", *s.Items, g.Elem())
	case reflect.Struct:
		if strings.HasPrefix(g.PkgPath(), "k8s.io/") {
			return
		}
		left := maps.Clone(s.Properties)
		for i := range g.NumField() {
			name, options, _ := strings.Cut(g.Field(i).Tag.Get("json"), ",")
			p, ok := s.Properties[name]
			if !ok {
				t.Errorf("%s.%s: not in the definition", path, name)
				continue
			}
			if p.Description == "" {
				t.Errorf("%s.%s: not described", path, name)
			}
			if optional := options != ""; optional == slices.Contains(s.Required, name) {
				t.Errorf("%s.%s: required and optional", path, name)
			}
			delete(left, name)
			sameFields(t, path+"."+name, p, g.Field(i).Type)
		}
		for name := range left {
			t.Errorf("%s.%s: not in Go", path, name)
		}
	}
}

// leaves calls f for every field that holds a value.
func leaves(path string, s schema, f func(path string, s schema)) {
	if s.Type != "object" {
		f(path, s)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		leaves(path+"."+name, s.Properties[name], f)
	}
}

// TestMeshConfigPage: the page has every field with its default and words, and no field that is not there.
func TestMeshConfigPage(t *testing.T) {
	b, err := os.ReadFile("../docs/reference/meshconfig.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `((?:spec|status)\\.[^`]+)` \\|(.*)\\|$").FindAllStringSubmatch(string(b), -1) {
		rows[m[1]] = strings.Split(m[2], " | ")
	}
	root := meshConfigSchema(t)
	check := func(path string, s schema) {
		row, ok := rows[path]
		if delete(rows, path); !ok {
			t.Errorf("%s is not on the page", path)
			return
		}
		if s.Default != nil && strings.TrimSpace(row[0]) != fmt.Sprintf("`%v`", s.Default) {
			t.Errorf("%s: default %v in the definition, %s on the page", path, s.Default, row[0])
		}
		for _, word := range s.Enum {
			if !strings.Contains(strings.Join(row, "|"), "`"+word+"`") {
				t.Errorf("%s: the page has no %s", path, word)
			}
		}
	}
	leaves("spec", root.Properties["spec"], check)
	leaves("status", root.Properties["status"], check)
	for path := range rows {
		t.Errorf("the page has %s, which is no field", path)
	}
}

// TestDroppableLabels: those that may be named are those the connection metrics have, in all four places.
func TestDroppableLabels(t *testing.T) {
	enum := meshConfigSchema(t).Properties["spec"].Properties["metrics"].Properties["dropLabels"].Items.Enum
	if !slices.Equal(enum, mesh.DroppableLabels) {
		t.Errorf("the definition has %v, mesh %v", enum, mesh.DroppableLabels)
	}
	m := regexp.MustCompile(`(?s)labelNames = \[\]string\{(.*?)\}`).FindStringSubmatch(goSources(t))
	if m == nil {
		t.Fatal("the connection labels are not where they were")
	}
	var labels []string
	for _, l := range regexp.MustCompile(`"(\w+)"`).FindAllStringSubmatch(m[1], -1) {
		labels = append(labels, l[1])
	}
	if want := append([]string{"reporter"}, mesh.DroppableLabels...); !slices.Equal(labels, want) {
		t.Errorf("the metrics have %v, want %v", labels, want)
	}
}

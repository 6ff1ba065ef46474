// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"errors"
	"testing"
	"time"
)

var testEntry = []byte(`{"type":"warren-cni","deadline":"15s"}`)

func TestInsertAndCut(t *testing.T) {
	for _, test := range []struct{ name, in, want string }{
		{"dense", `{"name":"n","plugins":[{"type":"a"},{"type":"b"}]}`,
			`{"name":"n","plugins":[{"type":"a"},{"type":"b"},{"type":"warren-cni","deadline":"15s"}]}`},
		{"one plugin", `{"plugins":[{"type":"a"}],"name":"n"}`,
			`{"plugins":[{"type":"a"},{"type":"warren-cni","deadline":"15s"}],"name":"n"}`},
		{"lines", "{\n  \"plugins\": [\n    {\"type\": \"a\"},\n    {\n      \"type\": \"b\"\n    }\n  ]\n}\n",
			"{\n  \"plugins\": [\n    {\"type\": \"a\"},\n    {\n      \"type\": \"b\"\n    },\n    {\"type\":\"warren-cni\",\"deadline\":\"15s\"}\n  ]\n}\n"},
		{"tabs, one plugin", "{\t\"plugins\":\t[\n\t\t{\"type\":\"a\"}\n\t]\n}",
			"{\t\"plugins\":\t[\n\t\t{\"type\":\"a\"},\n\t\t{\"type\":\"warren-cni\",\"deadline\":\"15s\"}\n\t]\n}"},
		{"commas first", "{\"plugins\":[{\"type\":\"a\"}\n , {\"type\":\"b\"} ] }",
			"{\"plugins\":[{\"type\":\"a\"}\n , {\"type\":\"b\"},{\"type\":\"warren-cni\",\"deadline\":\"15s\"} ] }"},
		{"brackets in strings", `{"a":"]}","plugins":[{"type":"a","x":"],"}]}`,
			`{"a":"]}","plugins":[{"type":"a","x":"],"},{"type":"warren-cni","deadline":"15s"}]}`},
		{"plugins inside a plugin", `{"plugins":[{"type":"multus","plugins":[1]}]}`,
			`{"plugins":[{"type":"multus","plugins":[1]},{"type":"warren-cni","deadline":"15s"}]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := insert([]byte(test.in), testEntry, true)
			if err != nil || string(got) != test.want {
				t.Fatalf("inserted: %v\n%s\nwant\n%s", err, got, test.want)
			}
			if again, err := insert(got, testEntry, true); err != nil || string(again) != test.want {
				t.Errorf("inserted twice: %v\n%s", err, again)
			}
			back, had, err := cut(got)
			if err != nil || !had || string(back) != test.in {
				t.Errorf("cut: %v\n%s\nwant\n%s", err, back, test.in)
			}
			if again, had, err := cut(back); err != nil || had || string(again) != test.in {
				t.Errorf("cut twice: %v\n%s", err, again)
			}
		})
	}
}

func TestInsertReplacesWhereItStands(t *testing.T) {
	in := []byte(`{"plugins":[{"type":"a"}, {"type":"warren-cni","old":1} ,{"type":"b"}]}`)
	if got, err := insert(in, testEntry, false); err != nil || string(got) != string(in) {
		t.Errorf("touched: %v\n%s", err, got)
	}
	want := `{"plugins":[{"type":"a"}, {"type":"warren-cni","deadline":"15s"} ,{"type":"b"}]}`
	if got, err := insert(in, testEntry, true); err != nil || string(got) != want {
		t.Errorf("%v\n%s", err, got)
	}
	for in, want := range map[string]string{
		`{"plugins":[{"type":"warren-cni"}, {"type":"b"}]}`:                `{"plugins":[{"type":"b"}]}`,
		`{"plugins":[{"type":"a"}, {"type":"warren-cni"} , {"type":"b"}]}`: `{"plugins":[{"type":"a"} , {"type":"b"}]}`,
		`{"plugins":[{"type":"warren-cni"}]}`:                              `{"plugins":[]}`,
	} {
		if got, had, err := cut([]byte(in)); err != nil || !had || string(got) != want {
			t.Errorf("cut %s: %v %s", in, err, got)
		}
	}
}

func TestWhatIsNoList(t *testing.T) {
	for _, in := range []string{
		``, `{`, `[]`, `null`, `{"name":"n"}`, `{"plugins":[]}`, `{"plugins":{}}`, `{"plugins":["a"]}`,
		`{"plugins":[{"type":"a"}],"plugins":[{"type":"b"}]}`, `{"plugins":[{"type":"a"}]} x`, `{"plugins":[{"type":"a"}`,
	} {
		if _, err := insert([]byte(in), testEntry, true); !errors.Is(err, errNoList) {
			t.Errorf("insert %s: %v", in, err)
		}
		if _, _, err := cut([]byte(in)); !errors.Is(err, errNoList) {
			t.Errorf("cut %s: %v", in, err)
		}
	}
}

func TestEntry(t *testing.T) {
	b, err := Entry{RunDir: "/run/warren", StateDir: "/var/lib/warren", Deadline: 15 * time.Second, ExcludedNamespaces: []string{"kube-system"}}.marshal()
	want := `{"type":"warren-cni","runDir":"/run/warren","stateDir":"/var/lib/warren","deadline":"15s","excludedNamespaces":["kube-system"]}`
	if err != nil || string(b) != want {
		t.Errorf("%v\n%s", err, b)
	}
}

func FuzzInsertAndCut(f *testing.F) {
	f.Add([]byte("{\"plugins\": [ {\"type\":\"a\"} , {\"type\":\"b\"} ]}"))
	f.Add([]byte(`{"plugins":[{"type":"warren-cni"},{"type":"b"}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		l, err := parseList(in)
		if err != nil || l.ours() >= 0 {
			return
		}
		out, err := insert(in, testEntry, true)
		if err != nil || !json.Valid(out) {
			t.Fatalf("inserted into %q: %v %q", in, err, out)
		}
		if back, _, err := cut(out); err != nil || string(back) != string(in) {
			t.Fatalf("%q became %q: %v", in, back, err)
		}
	})
}

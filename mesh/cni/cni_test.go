// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func request() Request {
	return Request{Version: Version, Op: Add, Pod: Pod{Namespace: "shop", Name: "db-0", UID: "u-1"}, Container: "c1",
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}}
}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Request)
		want   string // part of the error; "": none
	}{
		{"as it should be", func(*Request) {}, ""},
		{"no uid", func(r *Request) { r.Pod.UID = "" }, ""},
		{"one address", func(r *Request) { r.Addresses = r.Addresses[1:] }, ""},
		{"DEL has no address", func(r *Request) { r.Op, r.Addresses = Del, nil }, ""},
		{"unknown operation", func(r *Request) { r.Op = "x" }, "unknown operation"},
		{"no name", func(r *Request) { r.Pod.Name = "" }, "no name of a pod"},
		{"a path", func(r *Request) { r.Pod.Namespace = "../etc" }, "no name of a pod"},
		{"a path for a uid", func(r *Request) { r.Pod.UID = "a/b" }, "is no uid"},
		{"a long uid", func(r *Request) { r.Pod.UID = strings.Repeat("a", 129) }, "is no uid"},
		{"a long container", func(r *Request) { r.Container = strings.Repeat("a", 257) }, "257 characters"},
		{"no address", func(r *Request) { r.Addresses = nil }, "0 addresses"},
		{"three addresses", func(r *Request) { r.Addresses = append(r.Addresses, r.Addresses...)[:3] }, "3 addresses"},
		{"two of one family", func(r *Request) { r.Addresses[1] = netip.MustParseAddr("10.0.0.2") }, "one of each family"},
		{"loopback", func(r *Request) { r.Addresses[0] = netip.MustParseAddr("127.0.0.1") }, "no address of a pod"},
		{"link-local", func(r *Request) { r.Addresses[1] = netip.MustParseAddr("fe80::1") }, "no address of a pod"},
		{"v4-mapped", func(r *Request) { r.Addresses[1] = netip.MustParseAddr("::ffff:10.0.0.1") }, "no address of a pod"},
		{"with a zone", func(r *Request) { r.Addresses[1] = netip.MustParseAddr("fd00::1%eth0") }, "no address of a pod"},
		{"not even one", func(r *Request) { r.Addresses[0] = netip.Addr{} }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := request()
			test.change(&r)
			err := r.Validate()
			if test.name == "not even one" {
				if err == nil {
					t.Error("accepted")
				}
				return
			}
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

func TestWaitHasBounds(t *testing.T) {
	for millis, want := range map[int64]time.Duration{-1: 0, 0: 0, 100: 100 * time.Millisecond, 1 << 62: MaxWait} {
		if got := (Request{WaitMillis: millis}).Wait(); got != want {
			t.Errorf("%d: %v, want %v", millis, got, want)
		}
	}
}

func TestDecode(t *testing.T) {
	for in, want := range map[string]error{
		`{"version":1,"op":"del"}`:                 nil,
		`{"version":2,"op":"del","later":true}`:    ErrVersion,
		`{"op":"del"}`:                             ErrVersion,
		`{"version":1,"op":"del","path":"/x"}`:     ErrMalform,
		`{"version":1} {"version":1}`:              ErrMalform,
		`{"version":1,"addresses":["10.0.0.256"]}`: ErrMalform,
		`[]`:  ErrMalform,
		``:    ErrMalform,
		`nul`: ErrMalform,
	} {
		var r Request
		if err := Decode([]byte(in), &r); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", in, err, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"version":1,"op":"add","pod":{"namespace":"a","name":"b"},"addresses":["10.0.0.1"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Request
		if Decode(b, &r) != nil || r.Validate() != nil {
			return
		}
		if w := r.Wait(); w < 0 || w > MaxWait {
			t.Errorf("wait %v", w)
		}
		if strings.ContainsAny(r.Pod.UID+r.Pod.Namespace+r.Pod.Name, "/\x00") {
			t.Errorf("a path among %+v", r.Pod)
		}
	})
}

func TestNamespacesCache(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if _, err := ReadNamespaces(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("none yet: %v", err)
	}
	want := Namespaces{Enrolled: []string{"a"}, Excluded: []string{"kube-system"}, Outside: []string{"b"}}
	for range 2 { // the second replaces the first
		if err := WriteNamespaces(dir, want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadNamespaces(dir)
	if err != nil || !got.Equal(want) {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, want := range map[string]Standing{"a": NamespaceEnrolled, "kube-system": NamespaceExcluded, "b": NamespaceOutside, "c": NamespaceUnknown} {
		if s := got.Of(name); s != want {
			t.Errorf("%s: %v, want %v", name, s, want)
		}
	}
	if es, _ := os.ReadDir(dir); len(es) != 1 {
		t.Errorf("left behind: %v", es)
	}
	if err := os.WriteFile(filepath.Join(dir, namespacesFile), []byte(`{"version":9,"enrolled":[]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadNamespaces(dir); !errors.Is(err, ErrVersion) {
		t.Errorf("of another version: %v", err)
	}
}

// TestNamespacesLeaveNothingBehind: a process that is killed while it writes is swept up after, one that writes is not.
func TestNamespacesLeaveNothingBehind(t *testing.T) {
	dir := t.TempDir()
	for name, age := range map[string]time.Duration{".namespaces.json-old": 2 * onItsWay, ".namespaces.json-young": 0, ".other.json-old": 2 * onItsWay} {
		path, at := filepath.Join(dir, name), time.Now().Add(-age)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteNamespaces(dir, Namespaces{}); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".*"))
	for i, l := range left {
		left[i] = filepath.Base(l)
	}
	if want := []string{".namespaces.json-young", ".other.json-old"}; !slices.Equal(left, want) {
		t.Errorf("left: %v, want %v", left, want)
	}
}

// agent listens as one does, and answers each question by f; nil hangs up.
func agent(t *testing.T, dir, generation string, f func(Request) *Reply) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: filepath.Join(dir, "agent-"+generation+"-cni.sock")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			var r Request
			files, err := Receive(c, &r)
			CloseAll(files)
			if reply := f(r); err == nil && reply != nil {
				_ = Send(c, reply, nil)
			}
			c.Close()
		}
	}()
	return l
}

func TestAskGoesOnWithTheNextAgent(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := Ask(ctx, dir, request(), nil, 0); !errors.Is(err, ErrNoAgent) {
		t.Fatalf("without an agent: %v", err)
	}
	asked := make(chan struct{}, 100)
	first := agent(t, dir, "1", func(Request) *Reply { // ends before it answers
		asked <- struct{}{}
		return nil
	})
	go func() {
		<-asked
		first.Close()
		agent(t, dir, "2", func(r Request) *Reply {
			return &Reply{Version: Version, Result: Outside, Reason: r.Pod.Name}
		})
	}()
	reply, err := Ask(ctx, dir, request(), nil, 10*time.Second)
	if err != nil || reply.Result != Outside || reply.Reason != "db-0" {
		t.Errorf("%+v, %v", reply, err)
	}
}

func TestAskTellsOtherVersions(t *testing.T) {
	dir := t.TempDir()
	agent(t, dir, "1", func(Request) *Reply { return &Reply{Version: 7} })
	if _, err := Ask(t.Context(), dir, request(), nil, time.Minute); !errors.Is(err, ErrVersion) {
		t.Errorf("%v", err)
	}
}

func TestAskEndsInTime(t *testing.T) {
	dir := t.TempDir()
	release := make(chan struct{})
	agent(t, dir, "1", func(Request) *Reply { <-release; return nil })
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	started := time.Now()
	if _, err := Ask(ctx, dir, request(), nil, time.Minute); err == nil || time.Since(started) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(started))
	}
}

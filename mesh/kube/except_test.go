// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
)

// TestPodExceptions: a value that is wrong anywhere is not applied, and the pod stays in the mesh.
func TestPodExceptions(t *testing.T) {
	var many []string
	for i := range maxPodExcept + 1 {
		many = append(many, fmt.Sprintf("192.0.2.%d/32", i))
	}
	for _, tt := range []struct{ value, want, field string }{
		{"10.0.0.0/8", "10.0.0.0/8", ""},
		{"2001:db8::1/32, 10.1.2.3/8,10.0.0.0/8", "10.0.0.0/8 2001:db8::/32", ""},
		{strings.Join(many[1:], ","), strings.Join(slices.Sorted(slices.Values(many[1:])), " "), ""},
		{"", "", ""},
		{"10.0.0.0/8, 10/8", "", "metadata.annotations[warren.dev/except][1]"},
		{"metadata", "", "metadata.annotations[warren.dev/except][0]"},
		{"10.0.0.0/8,", "", "metadata.annotations[warren.dev/except][1]"},
		{"::/0", "", "metadata.annotations[warren.dev/except][0]"},
		{"::ffff:10.0.0.0/104", "", "metadata.annotations[warren.dev/except][0]"},
		{strings.Join(many, ","), "", "metadata.annotations[warren.dev/except]"},
	} {
		w := newWorld(t, enrolledShop, webPod())
		r := w.tr.Apply(events([]runtime.Object{webPod(annotation(KeyExcept, tt.value))}))
		w.store.Apply(r.Changes...)
		var got []string
		for _, p := range w.web().Except {
			got = append(got, p.String())
		}
		if want := strings.Fields(tt.want); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
			t.Errorf("%q: got %v, want %v", tt.value, got, want)
		}
		if tt.want != "" && (len(r.LocalPods) != 1 || !slices.Equal(r.LocalPods[0].Except, w.web().Except)) {
			t.Errorf("%q: the node's pod has %+v", tt.value, r.LocalPods)
		}
		switch {
		case tt.field == "" && len(r.Problems) > 0:
			t.Errorf("%q: problems %v", tt.value, r.Problems)
		case tt.field != "" && (len(r.Problems) != 1 || !r.Problems[0].Partial || r.Problems[0].Field != tt.field):
			t.Errorf("%q: problems %+v, want a partial one about %s", tt.value, r.Problems, tt.field)
		}
	}
	// What was good goes when it is no longer.
	w := newWorld(t, enrolledShop, webPod(annotation(KeyExcept, "10.0.0.0/8")))
	if w.store.Apply(w.tr.Apply(events([]runtime.Object{webPod(annotation(KeyExcept, "x"))})).Changes...); len(w.web().Except) > 0 {
		t.Errorf("a wrong value left %v", w.web().Except)
	}
	if !webWorkloadExcepts(w, "169.254.169.254") || webWorkloadExcepts(w, "10.1.1.1") {
		t.Error("link-local always is excepted, and nothing else")
	}
	w.put(webPod(annotation(KeyExcept, "10.0.0.0/8")))
	if !webWorkloadExcepts(w, "10.1.1.1") || !webWorkloadExcepts(w, "::ffff:10.1.1.1") || webWorkloadExcepts(w, "11.1.1.1") {
		t.Error("what is excepted is not told by the workload")
	}
}

func webWorkloadExcepts(w *world, a string) bool {
	return w.web().Excepts(w.store.Snapshot().Config(), netip.MustParseAddr(a))
}

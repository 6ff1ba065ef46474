// SPDX-License-Identifier: Apache-2.0

package ready

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestReadyListsPendingTasksUntilAllAreDone(t *testing.T) {
	r := New("sync", "listen")
	body, code := get(r)
	if code != 500 || strings.TrimSpace(body) != "not ready, pending: listen, sync" {
		t.Fatalf("before: %d %q", code, body)
	}
	r.Done("sync")
	r.Done("unnamed")
	if body, _ = get(r); strings.TrimSpace(body) != "not ready, pending: listen" {
		t.Fatalf("half way: %q", body)
	}
	r.Done("listen")
	if body, code = get(r); code != 200 || strings.TrimSpace(body) != "ready" {
		t.Fatalf("after: %d %q", code, body)
	}
	r.Undo("sync")
	r.Why("sync", func() string { return "pods: forbidden" })
	if body, _ = get(r); strings.TrimSpace(body) != "not ready, pending: sync (pods: forbidden)" {
		t.Fatalf("with a cause: %q", body)
	}
	if _, code = get(r); code != 500 {
		t.Fatalf("undone task still ready: %d", code)
	}
}

func get(r *Ready) (string, int) {
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest("GET", "/healthz/ready", nil))
	return w.Body.String(), w.Code
}

// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"slices"
	"testing"
	"time"
)

func TestParseAudit(t *testing.T) {
	const log = `{"stage":"ResponseStarted","requestURI":"/api/v1/pods?watch=true","verb":"watch","user":{"username":"system:serviceaccount:shop:web"},"userAgent":"web/1","objectRef":{"resource":"pods","apiVersion":"v1"},"stageTimestamp":"2026-01-02T03:04:05.000006Z","annotations":{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":"RBAC: allowed"}}
{"stage":"ResponseComplete","requestURI":"/apis/x.dev/v1/namespaces/a/things/b/status","verb":"update","user":{"username":"system:serviceaccount:shop:web"},"objectRef":{"resource":"things","subresource":"status","namespace":"a","name":"b","apiGroup":"x.dev"},"responseStatus":{"metadata":{},"code":403},"stageTimestamp":"2026-01-02T03:04:05.000006Z","annotations":{"authorization.k8s.io/decision":"forbid"}}
{"requestURI":"/openid/v1/jwks","verb":"get","user":{"username":"system:serviceaccount:shop:web"},"stageTimestamp":"2026-01-02T03:04:05.000006Z","annotations":{"authorization.k8s.io/decision":"allow"}}
{"requestURI":"/api/v1/po`
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	want := []Request{
		{At: at, Namespace: "shop", Account: "web", Agent: "web/1", Verb: "watch", URI: "/api/v1/pods?watch=true", Resource: "pods", Allowed: true, Why: "RBAC: allowed"},
		{At: at, Namespace: "shop", Account: "web", Verb: "update", URI: "/apis/x.dev/v1/namespaces/a/things/b/status",
			Group: "x.dev", Resource: "things/status", ObjectSpace: "a", ObjectName: "b", Status: 403},
		{At: at, Namespace: "shop", Account: "web", Verb: "get", URI: "/openid/v1/jwks", Allowed: true},
	}
	got, err := parseAudit([]byte(log))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := parseAudit([]byte("no JSON\n")); err == nil {
		t.Errorf("of no JSON: got %+v", got)
	}
}

// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/warren-mesh/warren/tests/testutil"
)

// TestIstioctlReadsTheDump gives what ztunnel knows to the code of `istioctl ztunnel-config`: all of it is understood.
func TestIstioctlReadsTheDump(t *testing.T) {
	testutil.Privileged(t)
	istioctl := buildPeer(t, "istio", "./configdump")
	s := newSpine(t, Options{})
	s.Apply("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: guard, namespace: app}\n" +
		"spec: {action: DENY, rules: [{from: [{source: {notPrincipals: [cluster.local/ns/app/sa/*], ipBlocks: [192.0.2.0/24]}}, {source: {serviceAccounts: [app/client]}}], to: [{operation: {ports: [\"7777\"]}}]}]}\n")
	live := openEcho(t, s.client, "tcp4", "far:80")
	defer live.Close()
	var dump string
	testutil.Eventually(t, told, "the policy is in the dump", func() bool {
		body, status, err := s.Node("a").System.Ztunnel.Pod.Get("http://localhost:15000/config_dump")
		if err != nil || status != 200 {
			t.Fatalf("status %d, %v", status, err)
		}
		dump = body
		return strings.Contains(body, `"guard"`)
	})
	for _, tt := range []struct {
		what []string
		want []string // lines, by pattern
	}{
		{[]string{"workload"}, []string{`NAMESPACE +POD NAME +ADDRESS +NODE +WAYPOINT +PROTOCOL`, `app +far +10\.244\.\S+ +b +None +HBONE`}},
		{[]string{"service"}, []string{`NAMESPACE +SERVICE NAME +SERVICE VIP +WAYPOINT +ENDPOINTS`, `app +far +10\.96\.\S+ +None +1/1`}},
		{[]string{"policy"}, []string{`NAMESPACE +POLICY NAME +ACTION +SCOPE`, `app +guard +Deny +Namespace`}},
		{[]string{"certificate"}, []string{`spiffe://cluster.local/ns/app/sa/client +Leaf +Available +true +[0-9a-f]{8,} +20\S+Z +20\S+Z`}},
		{[]string{"connections"}, []string{`client\.app +Outbound +client\.app:\d+ +far\.app:15008 +far\.app:8080 +HBONE`}},
		{[]string{"policy", "json"}, []string{`"Prefix": "spiffe://cluster.local/ns/app/sa/"|"Prefix": "cluster.local/ns/app/sa/"`, `"serviceAccount": "client"`, `"192.0.2.0/24"`, `7777`}},
		{[]string{"connections", "json"}, []string{`"actualDst": "10\.244\.\S+:15008"`, `"serviceAccount": "client"`}},
		{[]string{"all"}, []string{`POLICY NAME`}},
	} {
		cmd := exec.Command(istioctl, tt.what...)
		cmd.Stdin = strings.NewReader(dump)
		var out, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &stderr
		if err := cmd.Run(); err != nil {
			t.Errorf("%v: %v: %s", tt.what, err, stderr.String())
			continue
		}
		for _, want := range tt.want {
			if !regexp.MustCompile(want).MatchString(out.String()) {
				t.Errorf("%v lacks %s:\n%s", tt.what, want, out.String())
			}
		}
	}
}

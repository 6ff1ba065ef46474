// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

const agentManifest = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: smoke}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      hostNetwork: true
      hostPID: true
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers:
      - name: agent
        image: example.com/echo:test
        args: [serve, ":18080"]
        securityContext: {privileged: true}
        volumeMounts:
        - {name: netns, mountPath: /run/netns, mountPropagation: HostToContainer}
        - {name: bpf, mountPath: /sys/fs/bpf}
        - {name: cgroup, mountPath: /host/cgroup}
        - {name: cni, mountPath: /host/cni}
        - {name: token, mountPath: /var/run/secrets/mesh}
      volumes:
      - {name: netns, hostPath: {path: /run/netns}}
      - {name: bpf, hostPath: {path: /sys/fs/bpf}}
      - {name: cgroup, hostPath: {path: /sys/fs/cgroup}}
      - {name: cni, hostPath: {path: /etc/cni/net.d}}
      - name: token
        projected: {sources: [{serviceAccountToken: {path: token, audience: mesh, expirationSeconds: 3600}}]}
`

// agentSees looks with the eyes of a mesh's node agent.
func agentSees(t *testing.T, c *Cluster) {
	ctx := within(t, time.Minute)
	if err := c.Apply(ctx, agentManifest); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx, "smoke", "daemonsets/agent", RolledOut()); err != nil {
		t.Fatal(err)
	}
	for _, p := range podsOf(t, c, "agent") {
		unified := "/host/cgroup"
		if len(c.control.Cgroups) > 1 {
			unified += "/unified"
		}
		for file, want := range map[string]string{
			"/proc/1/comm":                           "warren-testmach",
			"/proc/self/mountinfo":                   "/run/netns/cni-", // a pod's network namespace, mounted there after this one started or before
			"/proc/sys/kernel/hostname":              p.Spec.NodeName,
			unified + "/kubelet/cgroup.procs":        "\n",
			"/host/cni/10-pods.conflist":             `"bridge"`,
			"/var/run/secrets/mesh/token":            ".",
			"/proc/mounts":                           "/sys/fs/bpf bpf ",
			unified + "/kubepods/cgroup.events":      "populated 1",
			"/proc/sys/net/ipv6/conf/all/forwarding": "1",
		} {
			out, stderr, err := c.Exec(ctx, "smoke", p.Name, "", "/echo", "cat", file)
			if err != nil || !strings.Contains(out, want) {
				t.Errorf("%s on %s holds %q, want %q (%v: %s)", file, p.Spec.NodeName, out, want, err, stderr)
			}
		}
	}
	if err := c.Delete(ctx, agentManifest); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx, "smoke", "daemonsets/agent", Gone()); err != nil {
		t.Fatal(err)
	}
}

const webhookManifest = `
apiVersion: v1
kind: Secret
metadata: {name: webhook, namespace: smoke}
data: {tls.crt: CERT, tls.key: KEY}
---
apiVersion: v1
kind: Pod
metadata: {name: webhook, namespace: smoke, labels: {app: webhook}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: webhook
    image: example.com/echo:test
    args: [webhook, ":8443", /tls]
    readinessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1}
    volumeMounts: [{name: tls, mountPath: /tls}]
  volumes: [{name: tls, secret: {secretName: webhook}}]
---
apiVersion: v1
kind: Service
metadata: {name: webhook, namespace: smoke}
spec: {selector: {app: webhook}, ports: [{port: 443, targetPort: 8443}]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: smoke}
webhooks:
- name: smoke.example.com
  admissionReviewVersions: [v1]
  sideEffects: None
  clientConfig: {service: {namespace: smoke, name: webhook}, caBundle: CA}
  objectSelector: {matchLabels: {refuse: "yes"}}
  rules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [configmaps]}]
`

func asksWebhook(t *testing.T, c *Cluster) {
	ctx := within(t, time.Minute)
	a, err := newAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.pair("webhook", subject{user: "webhook", names: []string{"webhook.smoke.svc"}}); err != nil {
		t.Fatal(err)
	}
	encoded := func(file string) string {
		b, err := os.ReadFile(a.path(file))
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(b)
	}
	manifest := strings.NewReplacer("CERT", encoded("webhook.crt"), "KEY", encoded("webhook.key"), "CA}", encoded("ca.crt")+"}").Replace(webhookManifest)
	if err := c.Apply(ctx, manifest); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx, "smoke", "pods/webhook", Condition("Ready")); err != nil {
		t.Fatal(err)
	}
	// The API server learns of a webhook and of its endpoints a little later.
	try := 0
	eventually(t, 20*time.Second, "a configuration that the webhook refuses", func() error {
		try++
		err := c.Apply(ctx, fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: refused-%d, labels: {refuse: \"yes\"}}}", try))
		if err == nil || !strings.Contains(err.Error(), "refused by echo") {
			return fmt.Errorf("got %v", err)
		}
		return nil
	})
	if err := c.Delete(ctx, manifest); err != nil {
		t.Fatal(err)
	}
}

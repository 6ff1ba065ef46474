// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/cluster"
)

// startZipkin makes the Deployment zipkin in the namespace observability: the real server, and the Java it needs, from this
// machine's disk, which the nodes see. Readiness is not waited for.
func (m *Mesh) startZipkin(t *testing.T) {
	t.Helper()
	jar, java := zipkinFiles(t)
	if strings.HasPrefix(jar, "/tmp/") || strings.HasPrefix(jar, "/run/") {
		t.Fatalf("start Zipkin: nodes have a /tmp and a /run of their own, and don't see %s: set XDG_CACHE_HOME elsewhere", jar)
	}
	const namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: observability}\n"
	var mounts, volumes strings.Builder
	settings, _ := filepath.Glob("/etc/java-*")
	for i, path := range append(settings, "/usr", "/lib", "/lib64", jar) {
		fmt.Fprintf(&mounts, "        - {name: v%d, mountPath: %s, readOnly: true}\n", i, path)
		fmt.Fprintf(&volumes, "      - {name: v%d, hostPath: {path: %s}}\n", i, path)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := m.Delete(ctx, namespace); err != nil {
			t.Error(err)
		} else if err := m.Wait(ctx, "", "namespaces/observability", cluster.Gone()); err != nil {
			t.Error(err)
		}
	})
	err := m.Apply(t.Context(), namespace+`---
apiVersion: apps/v1
kind: Deployment
metadata: {name: zipkin, namespace: observability, labels: {app: zipkin}}
spec:
  selector: {matchLabels: {app: zipkin}}
  template:
    metadata: {labels: {app: zipkin}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: zipkin
        image: `+m.App+`
        imagePullPolicy: Never
        command: [`+java+`, -Xmx160m, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", -jar, `+jar+`]
        readinessProbe: {httpGet: {path: /health, port: 9411}, periodSeconds: 1}
        volumeMounts:
`+mounts.String()+"      volumes:\n"+volumes.String())
	if err != nil {
		t.Fatal(err)
	}
}

// zipkinFiles are the server's jar, which tests/zipkin.sh fetches unless it is there, and the program java.
func zipkinFiles(t *testing.T) (jar, java string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "bash", "../zipkin.sh").CombinedOutput()
	if err == nil {
		if java, err = exec.LookPath("java"); err == nil {
			java, err = filepath.EvalSymlinks(java)
		}
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no Zipkin: %v: %s", err, out)
		}
		t.Skipf("no Zipkin: %v: %s", err, out)
	}
	if jar = os.Getenv("WARREN_ZIPKIN"); jar != "" {
		return jar, java
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("../zipkin.sh")
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^version=(.+)$`).FindSubmatch(script)
	return filepath.Join(cache, "warren", fmt.Sprintf("zipkin-server-%s-exec.jar", version[1])), java
}

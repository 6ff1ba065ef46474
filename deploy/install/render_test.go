// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

var update = flag.Bool("update", false, "write the manifests anew")

const manifests = "../manifests"

func render(t *testing.T, values map[string]any) map[string][]byte {
	t.Helper()
	if values == nil {
		values = map[string]any{}
	}
	if values["image"] == nil {
		values["image"] = PlaceholderImage
	}
	got, err := Render(context.Background(), "", values)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestManifestsAreTheChart(t *testing.T) {
	got := render(t, nil)
	for name, content := range got {
		path := filepath.Join(manifests, name)
		if *update {
			if err := os.WriteFile(path, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(have), string(content)); diff != "" {
			t.Errorf("deploy/manifests/%s is not what the chart renders (make manifests): -have +chart\n%s", name, diff)
		}
	}
	entries, err := os.ReadDir(manifests)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if got[e.Name()] == nil {
			t.Errorf("deploy/manifests/%s is of no chart", e.Name())
		}
	}
}

// objects decodes those of a kind.
func objects[T any](t *testing.T, stream []byte, kind string) []T {
	t.Helper()
	var out []T
	r := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(stream)))
	for {
		doc, err := r.Read()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		var head struct{ Kind string }
		if err := yaml.Unmarshal(doc, &head); err != nil {
			t.Fatal(err)
		}
		if head.Kind != kind {
			continue
		}
		var o T
		if err := yaml.UnmarshalStrict(doc, &o); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		out = append(out, o)
	}
}

// TestOnlyTheBrokerHasPrivileges reads every container there is.
func TestOnlyTheBrokerHasPrivileges(t *testing.T) {
	stream := render(t, nil)["02-warren.yaml"]
	pods := map[string]corev1.PodTemplateSpec{}
	for _, d := range objects[appsv1.DaemonSet](t, stream, "DaemonSet") {
		pods[d.Name] = d.Spec.Template
	}
	for _, d := range objects[appsv1.Deployment](t, stream, "Deployment") {
		pods[d.Name] = d.Spec.Template
	}
	for _, d := range objects[corev1.PodTemplate](t, stream, "PodTemplate") {
		pods[d.Name] = d.Template
	}
	if len(pods) != 4 {
		t.Fatalf("pods: %v", slices.Sorted(maps.Keys(pods)))
	}
	for name, p := range pods {
		if p.Spec.HostNetwork != (name == "warren-remove") || p.Spec.HostIPC || p.Spec.AutomountServiceAccountToken == nil || *p.Spec.AutomountServiceAccountToken {
			t.Errorf("%s: host's network or IPC, or a token for every container", name)
		}
		for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
			s := c.SecurityContext
			if s == nil || s.Privileged == nil || *s.Privileged || !*s.ReadOnlyRootFilesystem || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault ||
				!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
				t.Errorf("%s/%s: %+v", name, c.Name, s)
				continue
			}
			if c.Name != "broker" && (len(s.Capabilities.Add) > 0 || *s.AllowPrivilegeEscalation) {
				t.Errorf("%s/%s has privileges", name, c.Name)
			}
			token := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == "api-token" })
			if want := c.Name == "agent" || c.Name == "control"; token != want {
				t.Errorf("%s/%s: the API server's token: %v, want %v", name, c.Name, token, want)
			}
		}
	}
	if z := pods["warren-ztunnel"].Spec; z.HostPID || *z.Containers[0].SecurityContext.RunAsUser != 65532 || len(z.Volumes) != 1 {
		t.Errorf("ztunnel: %+v", z)
	}
}

// TestCNIDirectoriesAreTheHosts: a wrong path is to be told by the kubelet, and must not keep Warren from being removed.
func TestCNIDirectoriesAreTheHosts(t *testing.T) {
	stream := render(t, map[string]any{"node": map[string]any{"cniBinDir": "/else/bin", "cniConfDir": "/else/net.d"}})["02-warren.yaml"]
	got := map[string]corev1.HostPathType{}
	note := func(pod string, volumes []corev1.Volume) {
		for _, v := range volumes {
			if v.HostPath != nil && strings.HasPrefix(v.HostPath.Path, "/else/") {
				got[pod+" "+v.HostPath.Path] = *v.HostPath.Type
			}
		}
	}
	for _, d := range objects[appsv1.DaemonSet](t, stream, "DaemonSet") {
		note(d.Name, d.Spec.Template.Spec.Volumes)
	}
	for _, p := range objects[corev1.PodTemplate](t, stream, "PodTemplate") {
		note(p.Name, p.Template.Spec.Volumes)
	}
	want := map[string]corev1.HostPathType{
		"warren-node /else/bin": corev1.HostPathDirectory, "warren-node /else/net.d": corev1.HostPathDirectory,
		"warren-remove /else/bin": corev1.HostPathDirectoryOrCreate, "warren-remove /else/net.d": corev1.HostPathDirectoryOrCreate,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestRBACHasNoWildcards(t *testing.T) {
	stream := render(t, nil)["02-warren.yaml"]
	for _, r := range objects[rbacv1.ClusterRole](t, stream, "ClusterRole") {
		for _, rule := range r.Rules {
			if all := slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs); slices.Contains(all, "*") {
				t.Errorf("%s: %v", r.Name, rule)
			}
			if slices.Contains(rule.Resources, "secrets") {
				t.Errorf("%s may read secrets of every namespace", r.Name)
			}
		}
	}
}

func TestWrongValuesAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		values map[string]any
		want   string
	}{
		"no image":           {map[string]any{"image": ""}, "image: Warren has no public image"},
		"unknown value":      {map[string]any{"imagePullPolcy": "Always"}, "imagePullPolcy"},
		"a level":            {map[string]any{"logLevel": "loud"}, "logLevel"},
		"a relative path":    {map[string]any{"node": map[string]any{"cniBinDir": "opt"}}, "cniBinDir"},
		"no replica":         {map[string]any{"control": map[string]any{"replicas": 0}}, "replicas"},
		"Warren in the mesh": {map[string]any{"excludeNamespaces": []any{"kube-system"}}, "excludeNamespaces"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.values["image"] == nil {
				c.values["image"] = PlaceholderImage
			}
			_, err := Render(context.Background(), "", c.values)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want something about %q", err, c.want)
			}
		})
	}
}

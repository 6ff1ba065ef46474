// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/action"
	release "helm.sh/helm/v4/pkg/release/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/warren-mesh/warren/deploy/install"
	"github.com/warren-mesh/warren/tests/cluster"
)

// right is one thing that a role of the chart allows the service account of the same name.
type right struct {
	role           string // kind and name
	verb, resource string // the latter with group and subresource: "leases.coordination.k8s.io", "pods/status"; or a path
	object         string // empty: whatever its name
}

func (r right) String() string {
	return strings.TrimSpace(r.role + ": " + r.verb + " " + r.resource + " " + r.object)
}

// everyRightIsUsed wants every right that the chart gave to have been used since a moment, by what the API server wrote down of
// Warren's accounts: for a test that removed and installed Warren meanwhile. It lets Warren do what was not yet done.
func (m *Mesh) everyRightIsUsed(t *testing.T, given []right, since time.Time) {
	m.misconfigure(t)
	m.changeRoots(t)
	Eventually(t, 30*time.Second, "every right is used", func() string {
		all, err := m.Audit()
		if err != nil {
			t.Fatal(err)
		}
		used := usedRights(all, since)
		unused := slices.DeleteFunc(slices.Clone(given), func(r right) bool { return used[r] })
		if len(unused) == 0 {
			return ""
		}
		return fmt.Sprintf("%d of %d never were:\n%v", len(unused), len(given), strings.Join(lines(unused), "\n"))
	})
	t.Logf("%d rights, each was used", len(given))
}

func lines(rights []right) []string {
	var out []string
	for _, r := range rights {
		out = append(out, r.String())
	}
	return out
}

// rights are those that the installed chart gives, with its hooks.
func (m *Mesh) rights(t *testing.T) []right {
	t.Helper()
	c, err := helmOf(m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := action.NewGet(c).Run(install.Release)
	if err != nil {
		t.Fatal(err)
	}
	r := got.(*release.Release)
	manifest := r.Manifest
	for _, h := range r.Hooks {
		manifest += "\n---\n" + h.Manifest
	}
	var all []right
	for doc := range strings.SplitSeq(manifest, "\n---") {
		var o rbacv1.ClusterRole // a Role's fields are among its
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		if o.Kind == "ClusterRole" || o.Kind == "Role" {
			all = append(all, rightsOf(o.Kind+" "+o.Name, o.Rules)...)
		}
	}
	if len(all) == 0 {
		t.Fatal("the chart has no roles")
	}
	return all
}

// rightsOf takes rules apart. What is allowed on several objects is to be used on each.
func rightsOf(role string, rules []rbacv1.PolicyRule) []right {
	var all []right
	for _, rule := range rules {
		for _, verb := range rule.Verbs {
			for _, path := range rule.NonResourceURLs {
				all = append(all, right{role: role, verb: verb, resource: path})
			}
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					r := right{role: role, verb: verb, resource: inGroup(resource, group)}
					if len(rule.ResourceNames) == 0 {
						all = append(all, r)
					}
					for _, r.object = range rule.ResourceNames {
						all = append(all, r)
					}
				}
			}
		}
	}
	return all
}

func inGroup(resource, group string) string {
	if group == "" {
		return resource
	}
	name, sub, _ := strings.Cut(resource, "/")
	return strings.TrimSuffix(name+"."+group+"/"+sub, "/")
}

// usedRights are those that a request of Warren's own programs was allowed by.
func usedRights(requests []cluster.Request, since time.Time) map[right]bool {
	used := map[right]bool{}
	for _, q := range requests {
		// Tests make themselves tokens of these accounts, to see what they may not.
		if q.At.Before(since) || q.Namespace != system || !strings.HasPrefix(q.Agent, "warren-") || !q.Allowed {
			continue
		}
		if q.Resource == "" { // which one may read by a role of Kubernetes', too
			used[right{role: "ClusterRole " + q.Account, verb: q.Verb, resource: q.URI}] = true
			continue
		}
		r := right{role: byRole(q.Why), verb: q.Verb, resource: inGroup(q.Resource, q.Group)}
		verbs := []string{q.Verb}
		// A watch that begins with all there is stands for a list: that is what a server without such watches is asked for.
		if q.Verb == "watch" && strings.Contains(q.URI, "sendInitialEvents=true") {
			verbs = append(verbs, "list")
		}
		for _, r.verb = range verbs {
			for _, r.object = range []string{"", q.ObjectName} {
				used[r] = true
			}
		}
	}
	return used
}

// byRole is the role in the authorizer's words: `RBAC: allowed by RoleBinding "x/ns" of Role "x" to ServiceAccount "x/ns"`.
func byRole(why string) string {
	_, rest, _ := strings.Cut(why, " of ")
	kind, rest, _ := strings.Cut(rest, ` "`)
	name, _, _ := strings.Cut(rest, `"`)
	return kind + " " + name
}

// misconfigure makes one object of each kind that Warren has something to say about.
func (m *Mesh) misconfigure(t *testing.T) {
	t.Helper()
	ns := m.Namespace(t, "rights-odd", Labelled(enrolment, "perhaps"))
	ns.Create(App{Name: "odd", Enrol: "perhaps"})
	const objects = `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: odd, labels: {kubernetes.io/service-name: odd}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [239.1.2.3]}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: odd, namespace: warren-system}
spec: {selector: {matchLabels: {app: odd}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: odd}
spec: {action: CUSTOM, provider: {name: odd}, rules: [{}]}
---
apiVersion: warren.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {}
`
	ns.Apply(objects)
	t.Cleanup(func() { // not all of these go with the namespace
		if err := m.Delete(context.WithoutCancel(t.Context()), ns.own(objects)); err != nil {
			t.Error(err)
		}
	})
}

// changeRoots makes a namespace need the ConfigMap of the roots where somebody else's is in the way, and need it no longer.
func (m *Mesh) changeRoots(t *testing.T) {
	t.Helper()
	ns := m.Namespace(t, "rights-roots")
	configs := m.Client().CoreV1().ConfigMaps(ns.Name)
	_, err := configs.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "warren-ca-root"}, Data: map[string]string{"root-cert.pem": "mine"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ns.Enrol(true)
	ns.Deploy(App{Name: "app"})
	Eventually(t, 30*time.Second, "the ConfigMap has the roots", func() string {
		c, err := configs.Get(t.Context(), "warren-ca-root", metav1.GetOptions{})
		if err != nil || !strings.Contains(c.Data["root-cert.pem"], "BEGIN CERTIFICATE") {
			return fmt.Sprint(c.Data, err)
		}
		return ""
	})
	ns.Enrol(false)
}

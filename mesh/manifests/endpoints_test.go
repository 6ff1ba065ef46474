// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
)

// objects reads YAML into what derivedSlices takes.
func objects(t *testing.T, text string) map[kube.Key]runtime.Object {
	t.Helper()
	out := map[kube.Key]runtime.Object{}
	for _, d := range split("f", []byte(text)) {
		o, ok := decode(d)
		if !ok || o.obj == nil {
			t.Fatalf("bad test: %v", o.problems)
		}
		out[o.key] = o.obj
	}
	return out
}

// told writes slices as "family port=number... | pod address conditions ...".
func told(ss map[kube.Key]*discoveryv1.EndpointSlice) (out []string) {
	for k, s := range ss {
		if k.Name != s.Name || s.Labels[discoveryv1.LabelServiceName] == "" {
			return []string{"badly named slice " + k.Name}
		}
		line := string(s.AddressType)
		for _, p := range s.Ports {
			line += fmt.Sprintf(" %s/%s=%d", *p.Name, *p.Protocol, *p.Port)
		}
		for _, e := range s.Endpoints {
			line += fmt.Sprintf(" | %s %s", e.TargetRef.Name, e.Addresses[0])
			for _, c := range []struct {
				is   *bool
				word string
			}{{e.Conditions.Ready, "ready"}, {e.Conditions.Serving, "serving"}, {e.Conditions.Terminating, "terminating"}} {
				if *c.is {
					line += " " + c.word
				}
			}
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

// onePod is a Pod of shop, label app=web, with the extra lines of its spec and status.
func onePod(name, spec, status string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: shop, uid: %[1]s, labels: {app: web}}\nspec: {nodeName: a%s}\nstatus: {%s}\n", name, spec, status)
}

func oneService(spec string) string {
	return "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {selector: {app: web}, " + spec + "}\n"
}

func TestDerivedSlices(t *testing.T) {
	ready := `conditions: [{type: Ready, status: "True"}], `
	v4 := func(i int) string { return fmt.Sprintf("podIPs: [{ip: 10.0.0.%d}]", i) }
	http := "clusterIP: 10.96.0.1, ports: [{name: http, port: 80, targetPort: 8080}]"
	named := func(port int) string {
		return fmt.Sprintf(", containers: [{name: c, ports: [{name: web, containerPort: 53, protocol: UDP}, {name: web, containerPort: %d}]}]", port)
	}
	tests := []struct {
		name, text string
		want       []string
	}{
		{"ready and not", oneService(http) + onePod("p1", "", ready+v4(1)) + onePod("p2", "", v4(2)),
			[]string{"IPv4 http/TCP=8080 | p1 10.0.0.1 ready serving | p2 10.0.0.2"}},
		{"no target port", oneService("clusterIP: 10.96.0.1, ports: [{port: 80}]") + onePod("p1", "", ready+v4(1)),
			[]string{"IPv4 /TCP=80 | p1 10.0.0.1 ready serving"}},
		{"terminating", oneService(http) + strings.Replace(onePod("p1", "", ready+v4(1)), "uid: p1", "uid: p1, deletionTimestamp: 2020-01-01T00:00:00Z", 1),
			[]string{"IPv4 http/TCP=8080 | p1 10.0.0.1 serving terminating"}},
		{"publishNotReadyAddresses", oneService(http+", publishNotReadyAddresses: true") + onePod("p1", "", v4(1)),
			[]string{"IPv4 http/TCP=8080 | p1 10.0.0.1 ready serving"}},
		{"finished and without address", oneService(http) + onePod("p1", "", "phase: Succeeded, "+v4(1)) + onePod("p2", "", "phase: Failed, "+v4(2)) + onePod("p3", "", "phase: Pending"), nil},
		{"named ports that differ", oneService("clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: web}]") +
			onePod("p1", named(1001), ready+v4(1)) + onePod("p2", named(1002), ready+v4(2)) + onePod("p3", named(1001), v4(3)) + onePod("p4", "", ready+v4(4)),
			[]string{"IPv4 /TCP=1001 | p1 10.0.0.1 ready serving | p3 10.0.0.3", "IPv4 /TCP=1002 | p2 10.0.0.2 ready serving"}},
		{"named port of a restartable init container", oneService("clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: web}]") +
			onePod("p1", ", initContainers: [{name: i, restartPolicy: Always, ports: [{name: web, containerPort: 7}]}]", ready+v4(1)),
			[]string{"IPv4 /TCP=7 | p1 10.0.0.1 ready serving"}},
		{"of an init container that ends", oneService("clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: web}]") +
			onePod("p1", ", initContainers: [{name: i, ports: [{name: web, containerPort: 7}]}]", ready+v4(1)), nil},
		{"dual stack", oneService("clusterIPs: [10.96.0.1, 'fd96::1'], ports: [{port: 80}]") + onePod("p1", "", ready+"podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]"),
			[]string{"IPv4 /TCP=80 | p1 10.0.0.1 ready serving", "IPv6 /TCP=80 | p1 fd00::1 ready serving"}},
		{"single stack service of dual stack pods", oneService("ipFamilies: [IPv6], ports: [{port: 80}]") + onePod("p1", "", ready+"podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]"),
			[]string{"IPv6 /TCP=80 | p1 fd00::1 ready serving"}},
		{"headless without ports", oneService("clusterIP: None") + onePod("p1", "", ready+v4(1)),
			[]string{"IPv4 | p1 10.0.0.1 ready serving"}},
		{"host network", oneService(http) + onePod("p1", ", hostNetwork: true", ready+"podIP: 192.0.2.1"),
			[]string{"IPv4 http/TCP=8080 | p1 192.0.2.1 ready serving"}},
		{"UDP as well", oneService("clusterIP: 10.96.0.1, ports: [{name: d, port: 53, protocol: UDP}, {name: t, port: 53}]") + onePod("p1", "", ready+v4(1)),
			[]string{"IPv4 d/UDP=53 t/TCP=53 | p1 10.0.0.1 ready serving"}},
		{"others' labels", strings.Replace(oneService(http), "{app: web}", "{app: db}", 1) + onePod("p1", "", ready+v4(1)), nil},
		{"another namespace", strings.Replace(oneService(http), "namespace: shop", "namespace: other", 1) + onePod("p1", "", ready+v4(1)), nil},
		{"without selector", strings.Replace(oneService(http), "selector: {app: web}, ", "", 1) + onePod("p1", "", ready+v4(1)), nil},
		{"ExternalName", oneService("type: ExternalName, externalName: x.example") + onePod("p1", "", ready+v4(1)), nil},
		{"slices of its own", oneService(http) + onePod("p1", "", ready+v4(1)) +
			"---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: mine, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: []\n", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := told(derivedSlices(objects(t, tt.text))); !slices.Equal(got, tt.want) {
				t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(tt.want, "\n  "))
			}
		})
	}
}

func TestSourceDerivesEndpoints(t *testing.T) {
	d := newDirectory(t, map[string]string{"ns.yaml": shop, "svc.yaml": webService})
	d.run()
	endpoints := func(n int, ready bool) func(*mesh.Snapshot) bool {
		return func(s *mesh.Snapshot) bool {
			eps := s.Endpoints(web)
			return len(eps) == n && (n == 0 || eps[0].Ready == ready)
		}
	}
	d.write("pod.yaml", webPod)
	d.wait("one endpoint", endpoints(1, true))
	d.write("pod.yaml", strings.Replace(webPod, `"True"`, `"False"`, 1))
	d.wait("not ready", endpoints(1, false))
	d.write("pod.yaml", strings.Replace(webPod, "app: web", "app: other", 1))
	d.wait("not selected", endpoints(0, false))
	d.write("pod.yaml", webPod)
	d.wait("back", endpoints(1, true))
	d.write("slice.yaml", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: mine, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{name: http, port: 99}]\nendpoints: [{addresses: [192.0.2.1]}]\n")
	s := d.wait("slices of its own take over", func(s *mesh.Snapshot) bool {
		eps := s.Endpoints(web)
		return len(eps) == 1 && eps[0].PodUID == ""
	})
	if ports := s.Endpoints(web)[0].Services[web]; ports[80] != 99 {
		t.Errorf("ports: %v", ports)
	}
	d.remove("slice.yaml")
	d.wait("derived again", func(s *mesh.Snapshot) bool { eps := s.Endpoints(web); return len(eps) == 1 && eps[0].PodUID != "" })
	d.remove("svc.yaml")
	d.wait("no service", func(s *mesh.Snapshot) bool { return s.Service(web) == nil && len(s.Workload(webUID).Services) == 0 })
}

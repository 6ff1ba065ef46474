// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/warren-mesh/warren/mesh/zds/zdspb"
)

// wire is what other implementations of the protocols rely on: full names of messages, then fields and
// enumeration values by number.
const wire = `
istio.workload.Address workload=1 service=2
istio.workload.Service name=1 namespace=2 hostname=3 addresses=4 ports=5 subject_alt_names=6 waypoint=7 load_balancing=8 ip_families=9 extensions=10 canonical=11 ingress_use_waypoint=12 weighted_waypoints=13 visibility=14
istio.workload.Workload uid=20 name=1 namespace=2 addresses=3 hostname=21 network=4 tunnel_protocol=5 trust_domain=6 service_account=7 waypoint=8 network_gateway=19 node=9 canonical_name=10 canonical_revision=11 workload_type=12 workload_name=13 native_tunnel=14 application_tunnel=23 services=22 authorization_policies=16 status=17 cluster_id=18 locality=24 network_mode=25 extensions=26 capacity=27
istio.workload.NetworkAddress network=1 address=2 length=3
istio.workload.NamespacedHostname namespace=1 hostname=2
istio.workload.GatewayAddress hostname=1 address=2 hbone_mtls_port=3
istio.workload.WeightedWaypoint destination=1 weight=2
istio.workload.LoadBalancing routing_preference=1 mode=2 health_policy=3
istio.workload.LoadBalancing.Scope REGION=1 ZONE=2 SUBZONE=3 NODE=4 CLUSTER=5 NETWORK=6
istio.workload.LoadBalancing.Mode STRICT=1 FAILOVER=2 PASSTHROUGH=3
istio.workload.LoadBalancing.HealthPolicy ONLY_HEALTHY=0 ALLOW_ALL=1
istio.workload.Port service_port=1 target_port=2 app_protocol=3
istio.workload.PortList ports=1
istio.workload.Locality region=1 zone=2 subzone=3
istio.workload.ApplicationTunnel protocol=1 port=2
istio.workload.ApplicationTunnel.Protocol NONE=0 PROXY=1
istio.workload.Extension name=1 config=2
istio.workload.TunnelProtocol NONE=0 HBONE=1 LEGACY_ISTIO_MTLS=2
istio.workload.WorkloadStatus HEALTHY=0 UNHEALTHY=1
istio.workload.WorkloadType DEPLOYMENT=0 CRONJOB=1 POD=2 JOB=3
istio.workload.NetworkMode STANDARD=0 HOST_NETWORK=1
istio.workload.Visibility PUBLIC=0 NAMESPACE=1
istio.security.Authorization name=1 namespace=2 scope=3 action=4 rules=5 dry_run=6 extensions=7
istio.security.Rule clauses=1
istio.security.Clause matches=2
istio.security.Match namespaces=1 not_namespaces=2 principals=3 not_principals=4 source_ips=5 not_source_ips=6 destination_ips=7 not_destination_ips=8 destination_ports=9 not_destination_ports=10 service_accounts=11 not_service_accounts=12 extensions=13
istio.security.StringMatch exact=1 prefix=2 suffix=3 presence=4
istio.security.Address address=1 length=2
istio.security.Scope GLOBAL=0 NAMESPACE=1 WORKLOAD_SELECTOR=2
istio.security.Action ALLOW=0 DENY=1
istio.workload.zds.ZdsHello version=1
istio.workload.zds.Version V1=1
istio.workload.zds.WorkloadRequest add=1 del=2 snapshot_sent=3 keep=5
istio.workload.zds.AddWorkload uid=1 workload_info=2
istio.workload.zds.DelWorkload uid=2
istio.workload.zds.KeepWorkload uid=1
istio.workload.zds.WorkloadInfo name=1 namespace=2 service_account=3
istio.workload.zds.WorkloadResponse ack=1
istio.workload.zds.Ack error=1
`

func TestWireNumbers(t *testing.T) {
	for _, line := range strings.Split(strings.TrimSpace(wire), "\n") {
		name, fields, _ := strings.Cut(line, " ")
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, f := range strings.Fields(fields) {
			field, number, _ := strings.Cut(f, "=")
			if got := numberOf(d, protoreflect.Name(field)); got != number {
				t.Errorf("%s.%s is %s, want %s", name, field, got, number)
			}
		}
	}
}

func numberOf(d protoreflect.Descriptor, field protoreflect.Name) string {
	switch d := d.(type) {
	case protoreflect.MessageDescriptor:
		if f := d.Fields().ByName(field); f != nil {
			return strconv.Itoa(int(f.Number()))
		}
	case protoreflect.EnumDescriptor:
		if v := d.Values().ByName(field); v != nil {
			return strconv.Itoa(int(v.Number()))
		}
	}
	return "missing"
}

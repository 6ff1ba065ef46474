// SPDX-License-Identifier: Apache-2.0

package mesh

// DroppableLabels are the labels of the connection metrics that Config.DropLabels may name: all but reporter, without
// which a connection between two captured pods would count twice in one series.
var DroppableLabels = []string{
	"source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace",
	"source_principal", "source_app", "source_version", "source_cluster", "source_region", "source_zone",
	"destination_service", "destination_service_namespace", "destination_service_name",
	"destination_workload", "destination_canonical_service", "destination_canonical_revision", "destination_workload_namespace",
	"destination_principal", "destination_app", "destination_version", "destination_cluster", "destination_region", "destination_zone",
	"request_protocol", "response_flags", "connection_security_policy",
}

// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// DefaultName is the name of the one MeshConfig of a cluster.
const DefaultName = "default"

// MeshConfig is what holds for the whole mesh. There is one per cluster, named default; without it, and where it
// leaves a field out, the flags of Warren's processes hold.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,path=meshconfigs,singular=meshconfig,shortName=mc,categories=warren
// +kubebuilder:printcolumn:name="MTLS",type=string,JSONPath=`.spec.mtls.mode`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Applied",type=string,JSONPath=`.status.conditions[?(@.type=="Applied")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default'",message="a cluster has one MeshConfig, named default",fieldPath=".metadata"
type MeshConfig struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what shall hold.
	//
	// +optional
	// +kubebuilder:default={}
	Spec MeshConfigSpec `json:"spec,omitzero"`
	// Status is what was made of it. Warren writes it.
	//
	// +optional
	Status MeshConfigStatus `json:"status,omitzero"`
}

// MeshConfigList is a list of MeshConfigs.
//
// +kubebuilder:object:root=true
type MeshConfigList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []MeshConfig `json:"items"`
}

// CIDR is an IPv4 or IPv6 prefix, "10.0.0.0/8". IPv4 prefixes are written as IPv4.
//
// +kubebuilder:validation:MaxLength=43
// +kubebuilder:validation:XValidation:rule="isCIDR(self)",message="want a CIDR such as 10.0.0.0/8 or fd00::/8"
type CIDR string

// Duration is a time in the manner of Gateway API: "25s", "1m30s", "500ms".
//
// +kubebuilder:validation:MaxLength=32
// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
type Duration string

// MeshConfigSpec is what the user wants. Every field is optional.
type MeshConfigSpec struct {
	// MTLS is the mode of pods that no PeerAuthentication speaks of.
	//
	// +optional
	// +kubebuilder:default={mode: PERMISSIVE}
	MTLS MTLS `json:"mtls,omitzero"`
	// SameNodeTLS has connections between two pods of one node encrypted like all others. They never leave the node;
	// without it they are not encrypted, with the same identities and policies. Default false.
	//
	// +optional
	// +kubebuilder:default=false
	SameNodeTLS bool `json:"sameNodeTLS,omitempty"`
	// TrustDomainAliases are trust domains whose identities count as the mesh's own: policies that name one of them
	// hold for all, and their certificates are accepted if a root of the mesh vouches for them. Default none.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=255
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9._-]+$`
	TrustDomainAliases []string `json:"trustDomainAliases,omitempty"`
	// ClusterCIDRs are pod and service ranges beside those that Nodes, ServiceCIDRs and the agent's --cluster-cidrs
	// name: an address in them that no object explains is not taken for one outside. Default none.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	ClusterCIDRs []CIDR `json:"clusterCIDRs,omitempty"`
	// Exceptions are destinations that are never captured, beside link-local ones and the agent's --except: node-local
	// DNS, metadata services. Default none.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:XValidation:rule="self.all(c, !isCIDR(c) || cidr(c).ip().family() == 4 || !(cidr(c).containsIP('::1') || cidr(c).containsIP('::fffe:0:0')))",message="an IPv6 prefix that spans the IPv4-mapped addresses (name IPv4 prefixes as IPv4)"
	Exceptions []CIDR `json:"exceptions,omitempty"`
	// Drain is how long live connections may last after their pod left the mesh or their ztunnel was told to end, 0s to
	// 10m. Default: --drain of agent, broker and ztunnel, 25s.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('10m')",message="at most 10m"
	Drain *Duration `json:"drain,omitempty"`
	// Metrics trims the connection metrics.
	//
	// +optional
	Metrics Metrics `json:"metrics,omitzero"`
	// AccessLog says which connections have a line.
	//
	// +optional
	// +kubebuilder:default={mode: All}
	AccessLog AccessLog `json:"accessLog,omitzero"`
	// Tracing says where spans go.
	//
	// +optional
	Tracing Tracing `json:"tracing,omitzero"`
}

// MTLSMode is whether plaintext is accepted.
//
// +kubebuilder:validation:Enum=PERMISSIVE;STRICT
type MTLSMode string

const (
	// MTLSPermissive accepts plaintext from outside the mesh.
	MTLSPermissive MTLSMode = "PERMISSIVE"
	// MTLSStrict refuses plaintext.
	MTLSStrict MTLSMode = "STRICT"
)

// MTLS is the mesh-wide default below every PeerAuthentication.
type MTLS struct {
	// Mode: PERMISSIVE accepts plaintext from outside the mesh, STRICT refuses it. Default PERMISSIVE.
	//
	// +optional
	// +kubebuilder:default=PERMISSIVE
	Mode MTLSMode `json:"mode,omitempty"`
}

// Label is a label of Warren's connection metrics.
//
// +kubebuilder:validation:Enum=source_workload;source_canonical_service;source_canonical_revision;source_workload_namespace;source_principal;source_app;source_version;source_cluster;source_region;source_zone;destination_service;destination_service_namespace;destination_service_name;destination_workload;destination_canonical_service;destination_canonical_revision;destination_workload_namespace;destination_principal;destination_app;destination_version;destination_cluster;destination_region;destination_zone;request_protocol;response_flags;connection_security_policy
type Label string

// Metrics are settings of the connection metrics.
type Metrics struct {
	// DropLabels are labels left out of the connection metrics: fewer series. Default none.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	DropLabels []Label `json:"dropLabels,omitempty"`
}

// AccessLogMode is which connections have a line.
//
// +kubebuilder:validation:Enum=All;Errors;Off
type AccessLogMode string

// AccessLogFormat is how a line is written.
//
// +kubebuilder:validation:Enum=Text;JSON
type AccessLogFormat string

// AccessLog are settings of ztunnel's access log.
type AccessLog struct {
	// Mode: All connections, only Errors (refused, or not ended in order), or Off. Default All.
	//
	// +optional
	// +kubebuilder:default=All
	Mode AccessLogMode `json:"mode,omitempty"`
	// Format: Text (key=value) or JSON. Default: ztunnel's --log-format, text.
	//
	// +optional
	Format AccessLogFormat `json:"format,omitempty"`
}

// Tracing are settings of the spans that ztunnel makes of connections.
type Tracing struct {
	// OTLP sends spans to an OpenTelemetry collector.
	//
	// +optional
	OTLP *OTLP `json:"otlp,omitempty"`
	// Zipkin sends spans to a Zipkin server.
	//
	// +optional
	Zipkin *Zipkin `json:"zipkin,omitempty"`
	// SamplePercent of the connections have a span, 0 to 100. Default 1; nothing is sampled without an endpoint.
	//
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	SamplePercent *float64 `json:"samplePercent,omitempty"`
}

// OTLP is an OpenTelemetry collector.
type OTLP struct {
	// Endpoint is the host:port of its gRPC receiver: "otel-collector.observability:4317".
	//
	// +kubebuilder:validation:MaxLength=320
	// +kubebuilder:validation:Pattern=`^([a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:.]+\]):[1-9][0-9]{0,4}$`
	// +kubebuilder:validation:XValidation:rule="int(self.substring(self.lastIndexOf(':') + 1)) <= 65535",message="want host:port with a port from 1 to 65535"
	Endpoint string `json:"endpoint"`
}

// Zipkin is a Zipkin server.
type Zipkin struct {
	// Endpoint is the http URL that takes spans as Zipkin v2 JSON: "http://zipkin.observability:9411/api/v2/spans".
	//
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() == 'http' && url(self).getHostname() != '' && (url(self).getPort() == '' || (int(url(self).getPort()) >= 1 && int(url(self).getPort()) <= 65535))",message="want a URL such as http://zipkin.observability:9411/api/v2/spans"
	Endpoint string `json:"endpoint"`
}

// MeshConfigStatus is what was made of the spec.
type MeshConfigStatus struct {
	// ObservedGeneration is the generation of the spec that the conditions are about.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions: Accepted, whether the spec as written is valid; where it is not, the message names the field. Applied,
	// whether it is what the mesh is told.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

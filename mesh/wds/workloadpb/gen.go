// SPDX-License-Identifier: Apache-2.0

// Package workloadpb holds the messages of Istio ambient's workload API.
package workloadpb

//go:generate ../protoc.sh mesh/wds/workloadpb/workload.proto

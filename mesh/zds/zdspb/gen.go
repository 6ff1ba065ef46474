// SPDX-License-Identifier: Apache-2.0

// Package zdspb holds the messages of the protocol between a node agent and its ztunnels.
package zdspb

//go:generate ../../wds/protoc.sh mesh/zds/zdspb/zds.proto

// SPDX-License-Identifier: Apache-2.0

// Package authzpb holds the messages of Istio ambient's L4 authorization.
package authzpb

//go:generate ../protoc.sh mesh/wds/authzpb/authorization.proto

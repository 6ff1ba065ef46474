// SPDX-License-Identifier: Apache-2.0

// Package warrenpb holds the messages of Warren's own that travel beside and inside WDS.
package warrenpb

//go:generate ../protoc.sh mesh/wds/warrenpb/warren.proto

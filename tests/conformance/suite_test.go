// SPDX-License-Identifier: Apache-2.0

// Package conformance is the Gateway API's conformance suite as a program: `go test -c` makes it, and tests/e2e runs it
// against the real cluster. It is a module of its own because the suite brings Kubernetes libraries of its own version.
package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

// TestSuite runs what the command line asks for against the cluster of KUBECONFIG.
func TestSuite(t *testing.T) { conformance.RunConformance(t) }

// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/tests/forge"
)

// meshSigner is the mesh's own issuing key, read as nobody but the test may, so that a certificate can be wrong in one
// thing alone.
func meshSigner(t *testing.T, m *Mesh) forge.Signer {
	t.Helper()
	secret, err := m.Client().CoreV1().Secrets(system).Get(t.Context(), "warren-ca", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return forge.Read(t, secret.Data["issuing.pem"])
}

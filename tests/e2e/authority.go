// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// caSecret holds the mesh's authority.
const caSecret = "warren-ca"

// keepAuthority lets the test change the mesh's authority. When it ends the present one is there again, alone, and every
// certificate is of it.
func (m *Mesh) keepAuthority(t *testing.T) {
	t.Helper()
	secrets := m.Client().CoreV1().Secrets(system)
	before, err := secrets.Get(t.Context(), caSecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	root := fingerprintOf(before.Data["root.pem"])
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
		defer cancel()
		now, err := secrets.Get(ctx, caSecret, metav1.GetOptions{})
		if err == nil {
			now.Data = before.Data
			_, err = secrets.Update(ctx, now, metav1.UpdateOptions{})
		}
		if err == nil {
			err = m.untilOf(ctx, root)
		}
		if err != nil {
			t.Errorf("give the mesh its own authority back: %v", err)
		}
	})
}

// fingerprintOf is how metrics name the first certificate of a file.
func fingerprintOf(file []byte) string {
	for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			sum := sha256.Sum256(block.Bytes)
			return hex.EncodeToString(sum[:8])
		}
	}
	return ""
}

// untilOf waits until every node trusts this root alone, and has certificates of no other.
func (m *Mesh) untilOf(ctx context.Context, root string) error {
	for {
		missing, err := m.notOf(ctx, root)
		if err == nil && missing == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for root %s: %s, %w", root, missing, err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// notOf says what is not yet of this root.
func (m *Mesh) notOf(ctx context.Context, root string) (string, error) {
	pods, err := m.Client().CoreV1().Pods(system).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	for _, p := range pods.Items {
		switch p.Labels["app.kubernetes.io/name"] {
		case nodeName: // the kubelet looks for a new ConfigMap when something changes at the pod
			patch := fmt.Sprintf(`{"metadata":{"annotations":{"example.com/look":"%d"}}}`, time.Now().UnixNano())
			if _, err := m.Client().CoreV1().Pods(system).Patch(ctx, p.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
				return "", err
			}
		case ztunnelName:
			page, err := m.Fetch(ctx, system, p.Name, "http://localhost:15020/metrics")
			if err != nil {
				return "", err
			}
			of := fmt.Sprintf("root=%q", root)
			trusted := strings.Count(page, "\nwarren_trust_root_expiry_seconds{")
			all, own := Metric(page, "warren_certificates"), Metric(page, "warren_certificates", of)
			if trusted != 1 || all != own || !strings.Contains(page, "warren_trust_root_expiry_seconds{"+of) {
				return fmt.Sprintf("%s trusts %d roots, %v of %v certificates are of this one", p.Name, trusted, own, all), nil
			}
		}
	}
	return "", nil
}

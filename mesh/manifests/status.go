// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/warren-mesh/warren/mesh"
)

const (
	// StatusDir is the directory of results below the manifests' own.
	StatusDir = "status"
	// BundleFile, in StatusDir, holds the CA's root certificates, PEM.
	BundleFile = "warren-ca-root.pem"
	// RevokedFile, in StatusDir, holds the CA's revocation lists, PEM.
	RevokedFile = "warren-ca-crl.pem"

	podsDir       = "pods"
	conditionsDir = "conditions"
)

// capture is one pod's capture status: DIR/status/pods/<namespace>/<name>.json.
type capture struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// UID and Node have to be the pod's, or the status is a former pod's or a stranger's.
	UID  string `json:"uid"`
	Node string `json:"node"`
	// Captured is the value of annotation warren.dev/captured.
	Captured string    `json:"captured"`
	Time     time.Time `json:"time"`

	stat stat
}

// of is the value as far as it is about this very pod; "" otherwise.
func (c capture) of(p *corev1.Pod) string {
	if c.UID == "" || c.UID != string(p.UID) || c.Node != p.Spec.NodeName {
		return ""
	}
	return c.Captured
}

func capturePath(dir string, pod mesh.Name) string {
	return filepath.Join(dir, StatusDir, podsDir, pod.Namespace, pod.Name+".json")
}

// isCapture reports whether a path lies below status/pods.
func isCapture(dir, path string) bool {
	return strings.HasPrefix(path, filepath.Join(dir, StatusDir, podsDir)+string(filepath.Separator))
}

func loadCapture(dir, path string) (capture, error) {
	data, err := readFile(path)
	if err != nil {
		return capture{}, err
	}
	var c capture
	if err := json.Unmarshal(data, &c); err != nil {
		return capture{}, fmt.Errorf("read capture status: %w", err)
	}
	if path != capturePath(dir, mesh.Name{Namespace: c.Namespace, Name: c.Name}) {
		return capture{}, fmt.Errorf("read capture status: it is about %s/%s, not about the pod its path names", c.Namespace, c.Name)
	}
	return c, nil
}

func capturesByPod(captures map[string]capture) map[mesh.Name]capture {
	out := make(map[mesh.Name]capture, len(captures))
	for _, c := range captures {
		out[mesh.Name{Namespace: c.Namespace, Name: c.Name}] = c
	}
	return out
}

// writeFile puts a file in place by rename: a reader sees the old or the new one, never a part. Directories
// are made as needed.
func writeFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.CreateTemp(dir, ".write-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

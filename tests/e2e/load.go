// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/deploy/install"
	"github.com/warren-mesh/warren/tests/cluster"
)

// Warren's parts, as the chart names them.
const (
	system      = install.Namespace
	nodeName    = "warren-node"
	ztunnelName = "warren-ztunnel"
	controlName = "warren-control"
)

// loaded is the ConfigMap in "default" that says what this cluster was given.
const loaded = "warren-e2e"

// load gives the cluster the images and Warren, as far as it hasn't got them.
func (m *Mesh) load(ctx context.Context) error {
	configs := m.Client().CoreV1().ConfigMaps(metav1.NamespaceDefault)
	have, err := configs.Get(ctx, loaded, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if os.Getenv(keepVariable) == asIs && have.Data["app"] != "" {
		m.App = have.Data["app"]
		return nil
	}
	chart, err := hashOf("../../deploy/chart/warren")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "warren-e2e-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var image install.Image
	var wg sync.WaitGroup
	var buildErr, appErr error
	wg.Go(func() {
		image, buildErr = install.BuildImage(ctx, install.BuildOptions{Output: filepath.Join(dir, "warren.tar"), Progress: os.Stderr})
	})
	wg.Go(func() { m.App, appErr = m.loadApp(ctx, dir, have.Data["app"]) })
	wg.Wait()
	if err := errors.Join(buildErr, appErr); err != nil {
		return err
	}
	// The cluster's own word: the last run may have ended while Warren was removed.
	if runs := m.runs(ctx); runs != image.Ref || chart != have.Data["chart"] {
		if err := m.install(ctx, image); err != nil {
			return err
		}
	} else if have.Data["app"] == m.App {
		return nil
	}
	now := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: loaded},
		Data: map[string]string{"chart": chart, "app": m.App}}
	if have.Name == "" {
		_, err = configs.Create(ctx, now, metav1.CreateOptions{})
	} else {
		_, err = configs.Update(ctx, now, metav1.UpdateOptions{})
	}
	return err
}

// runs is the image of the Warren that is installed and whole; "" when none is.
func (m *Mesh) runs(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	d, err := m.Client().AppsV1().DaemonSets(system).Get(ctx, ztunnelName, metav1.GetOptions{})
	if err != nil || len(d.Spec.Template.Spec.Containers) == 0 || m.whole(ctx) != nil {
		return ""
	}
	return d.Spec.Template.Spec.Containers[0].Image
}

// install loads Warren's image and installs it, or upgrades what is there.
func (m *Mesh) install(ctx context.Context, image install.Image) error {
	began := time.Now()
	if err := m.LoadArchive(ctx, image.Archive); err != nil {
		return err
	}
	at := time.Now()
	values := m.values
	if values == nil {
		values = map[string]any{} // and not those that a run before has left
	}
	if err := install.Install(ctx, install.Options{Config: m.Config(), Image: image.Ref, Values: values, Progress: os.Stderr}); err != nil {
		var why strings.Builder
		m.describeSystem(ctx, &why)
		return fmt.Errorf("%w\n%s", err, why.String())
	}
	fmt.Fprintf(os.Stderr, "e2e: %s loaded in %.1fs, installed in %.1fs\n", image.Ref, at.Sub(began).Seconds(), time.Since(at).Seconds())
	return nil
}

// loadApp builds the test application in dir and loads its image; its name is made of its content.
func (m *Mesh) loadApp(ctx context.Context, dir, have string) (ref string, err error) {
	binary := filepath.Join(dir, "testapp")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", binary, "./testapp")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build test application: %w: %s", err, out)
	}
	hash, err := hashOf(binary)
	if err != nil {
		return "", err
	}
	ref = "warren.dev/testapp:" + hash[:12]
	if ref == have {
		return ref, nil
	}
	return ref, m.LoadImage(ctx, cluster.Binary(ref, binary))
}

// hashOf is of a file's content, or of all below a directory.
func hashOf(path string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		fmt.Fprintf(h, "%s %d\n", strings.TrimPrefix(p, path), len(b))
		h.Write(b)
		return err
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

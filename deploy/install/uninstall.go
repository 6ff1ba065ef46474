// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/kube"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/deploy/install/removal"
)

// Uninstall removes Warren from nodes and cluster. Captured pods go on, in plaintext, without a restart. A cluster
// without Warren is no error. While a node is not ready it refuses before it changes anything, and names the node.
func Uninstall(ctx context.Context, o Options) error {
	if err := uninstall(ctx, o); err != nil {
		return fmt.Errorf("uninstall Warren: %w", err)
	}
	return nil
}

func uninstall(ctx context.Context, o Options) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	s, err := findSource(ctx, o.Source)
	if err != nil {
		return err
	}
	ch, err := loadChart(s)
	if err != nil {
		return err
	}
	c, err := connect(o.Config)
	if err != nil {
		return err
	}
	from := removal.Options{Client: c.typed, Dynamic: c.dynamic, SkipNotReady: o.SkipNotReady, Progress: o.Progress}
	unseen, err := removal.Run(ctx, from)
	if err != nil {
		return err
	}
	if err := deleteRelease(o); err != nil {
		return err
	}
	if err := errors.Join(deletePlain(ctx, c), deleteCRDs(ctx, c.dynamic, ch)); err != nil {
		return err
	}
	if err := deleteNamespace(ctx, o, c); err != nil {
		return err
	}
	progress(o.Progress, "%s", verdict(unseen))
	return nil
}

// verdict is the last word, given the nodes that nobody looked at.
func verdict(unseen []string) string {
	if len(unseen) == 0 {
		return "nothing of Warren is left"
	}
	return fmt.Sprintf("no object of Warren's is left. Nodes that were not looked at may have its kernel programs, CNI plugin and files: %s "+
		"(if it ever ran there, install it again and uninstall it while they are ready, or clean them by hand: docs/operations/install.md)",
		strings.Join(unseen, ", "))
}

// deleteRelease deletes the chart's objects. Its hook's work is done.
func deleteRelease(o Options) error {
	h, err := helm(o.Config)
	if err != nil {
		return err
	}
	u := action.NewUninstall(h)
	u.DisableHooks, u.IgnoreNotFound, u.Timeout = true, true, o.Timeout
	u.WaitStrategy = kube.HookOnlyStrategy
	if _, err := u.Run(Release); err != nil {
		return fmt.Errorf("delete Helm release %s: %w", Release, err)
	}
	return nil
}

// deleteNamespace waits for its end, for a new installation would find it ending.
func deleteNamespace(ctx context.Context, o Options, c clients) error {
	namespaces := c.typed.CoreV1().Namespaces()
	err := namespaces.Delete(ctx, Namespace, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete namespace %s: %w", Namespace, err)
	}
	return waitUntil(ctx, o.Progress, func(ctx context.Context) ([]string, error) {
		_, err := namespaces.Get(ctx, Namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return []string{"namespace " + Namespace + " to end"}, err
	})
}

// SPDX-License-Identifier: Apache-2.0

package removal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// cleanAPI ends the authority, which would write again, and removes what the programs wrote. It returns the nodes that
// were not cleaned, and whose pods are captured still.
func (r remover) cleanAPI(ctx context.Context, p plan) (left []string, err error) {
	if err := gone(r.Client.AppsV1().Deployments(namespace).Delete(ctx, control, metav1.DeleteOptions{})); err != nil {
		return nil, fmt.Errorf("delete Deployment %s: %w", control, err)
	}
	if err := r.abandon(ctx, p.away); err != nil {
		return nil, err
	}
	if err := r.until(ctx, control+" to end", func() (string, error) {
		list, err := r.list(ctx, partName+"="+control)
		if err != nil || len(list) == 0 {
			return "", err
		}
		return list[0].Name + " on " + list[0].Spec.NodeName, nil
	}); err != nil {
		return nil, err
	}
	left, err = r.annotations(ctx, p.cleaned())
	return left, errors.Join(err, r.conditions(ctx), r.bundles(ctx), r.secret(ctx),
		gone(r.Client.CoordinationV1().Leases(namespace).Delete(ctx, lease, metav1.DeleteOptions{})))
}

// annotations takes off pods what the agents reported, and returns the nodes of captured ones that were not cleaned.
func (r remover) annotations(ctx context.Context, cleaned map[string]bool) (left []string, err error) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{captured: nil}}})
	if err != nil {
		return nil, err
	}
	var errs []error
	free := 0
	for next := ""; ; {
		list, err := r.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{Limit: 500, Continue: next})
		if apierrors.IsResourceExpired(err) {
			next = ""
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list pods: %w", err)
		}
		for _, p := range list.Items {
			said, ok := p.Annotations[captured]
			if !ok {
				continue
			}
			_, err := r.Client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, patch, metav1.PatchOptions{})
			if err := gone(err); err != nil {
				errs = append(errs, fmt.Errorf("patch pod %s/%s: %w", p.Namespace, p.Name, err))
			}
			switch {
			case said != capturedTrue: // by its own word it never was
			case cleaned[p.Spec.NodeName]:
				free++
			default:
				left = append(left, p.Spec.NodeName)
			}
		}
		if next = list.Continue; next == "" {
			break
		}
	}
	r.say("%d pods go on outside the mesh", free)
	if len(left) > 0 {
		r.say("%d pods stay captured, on nodes that were not cleaned: nothing serves them", len(left))
	}
	return left, errors.Join(errs...)
}

func (r remover) bundles(ctx context.Context) error {
	list, err := r.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	var errs []error
	for _, ns := range list.Items {
		if err := gone(r.Client.CoreV1().ConfigMaps(ns.Name).Delete(ctx, bundle, metav1.DeleteOptions{})); err != nil {
			errs = append(errs, fmt.Errorf("delete ConfigMap %s/%s: %w", ns.Name, bundle, err))
		}
	}
	return errors.Join(errs...)
}

// secret deletes the authority's keys, unless the user brought them.
func (r remover) secret(ctx context.Context) error {
	secrets := r.Client.CoreV1().Secrets(namespace)
	s, err := secrets.Get(ctx, secret, metav1.GetOptions{})
	if err == nil && s.Labels[managedBy] != byController {
		r.say("Secret %s/%s was not made by Warren, and stays as long as its namespace", namespace, secret)
		return nil
	}
	if err == nil {
		err = secrets.Delete(ctx, secret, metav1.DeleteOptions{})
	}
	if err := gone(err); err != nil {
		return fmt.Errorf("delete Secret %s: %w", secret, err)
	}
	return nil
}

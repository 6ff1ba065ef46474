// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
)

// manager signs what is applied here and not by Helm.
const manager = "warren-deploy"

var crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// crds are those in the chart's crds directory. Helm would create them, but never bring them up to date.
func crds(ch *chart.Chart) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	for _, c := range ch.CRDObjects() {
		d := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(c.File.Data), 4096)
		for {
			o := &unstructured.Unstructured{}
			err := d.Decode(o)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", c.Filename, err)
			}
			if len(o.Object) > 0 {
				out = append(out, o)
			}
		}
	}
	return out, nil
}

func applyCRDs(ctx context.Context, client dynamic.Interface, ch *chart.Chart) error {
	list, err := crds(ch)
	if err != nil {
		return err
	}
	for _, o := range list {
		if _, err := client.Resource(crdResource).Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: manager, Force: true}); err != nil {
			return fmt.Errorf("apply CustomResourceDefinition %s: %w", o.GetName(), err)
		}
	}
	return nil
}

// deleteCRDs deletes them, and with them every object of their kinds.
func deleteCRDs(ctx context.Context, client dynamic.Interface, ch *chart.Chart) error {
	list, err := crds(ch)
	if err != nil {
		return err
	}
	for _, o := range list {
		if err := client.Resource(crdResource).Delete(ctx, o.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete CustomResourceDefinition %s: %w", o.GetName(), err)
		}
	}
	return nil
}

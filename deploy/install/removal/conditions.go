// SPDX-License-Identifier: Apache-2.0

package removal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/pager"
)

// conditionPrefix begins the types of the conditions that control writes into the status of others' kinds.
const conditionPrefix = "warren.dev/"

// judged are those kinds. Warren's own go with their CustomResourceDefinition.
var judged = []schema.GroupVersionResource{
	{Group: "security.istio.io", Version: "v1", Resource: "authorizationpolicies"},
	{Group: "security.istio.io", Version: "v1", Resource: "peerauthentications"},
}

// conditions takes off what control said about users' objects. Who writes to one meanwhile makes it look again.
func (r remover) conditions(ctx context.Context) error {
	n := 0
	err := r.until(ctx, "conditions to go", func() (string, error) {
		var busy []string
		var errs []error
		for _, kind := range judged {
			done, conflicts, err := r.conditionsOf(ctx, kind)
			n += done
			busy, errs = append(busy, conflicts...), append(errs, err)
		}
		return strings.Join(busy, ", "), errors.Join(errs...)
	})
	if n > 0 {
		r.say("took conditions off %d policies", n)
	}
	return err
}

// conditionsOf does it for one kind: how many objects of it are done now, and which somebody else wrote to meanwhile.
func (r remover) conditionsOf(ctx context.Context, kind schema.GroupVersionResource) (done int, conflicts []string, err error) {
	objects := r.Dynamic.Resource(kind)
	page := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return objects.List(ctx, o) })
	var errs []error
	err = page.EachListItem(ctx, metav1.ListOptions{}, func(item runtime.Object) error {
		o := item.(*unstructured.Unstructured)
		if !dropConditions(o) {
			return nil
		}
		name := kind.Resource + " " + o.GetNamespace() + "/" + o.GetName()
		_, err := objects.Namespace(o.GetNamespace()).UpdateStatus(ctx, o, metav1.UpdateOptions{FieldManager: template})
		switch err = gone(err); {
		case apierrors.IsConflict(err):
			conflicts = append(conflicts, name)
		case err != nil:
			errs = append(errs, fmt.Errorf("take conditions off %s: %w", name, err))
		default:
			done++
		}
		return nil
	})
	switch err = gone(err); { // a cluster may lack the kind
	case apierrors.IsResourceExpired(err):
		conflicts = append(conflicts, "the rest of "+kind.Resource)
	case err != nil:
		errs = append(errs, fmt.Errorf("list %s: %w", kind.Resource, err))
	}
	return done, conflicts, errors.Join(errs...)
}

// dropConditions takes Warren's conditions off an object, and the list and the status that held nothing else. It reports
// whether there were any.
func dropConditions(o *unstructured.Unstructured) bool {
	all, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
	if err != nil { // not what control writes
		return false
	}
	others := slices.DeleteFunc(slices.Clone(all), func(v any) bool {
		c, _ := v.(map[string]any)
		kind, _ := c["type"].(string)
		return strings.HasPrefix(kind, conditionPrefix)
	})
	if len(others) == len(all) {
		return false
	}
	status := o.Object["status"].(map[string]any)
	if len(others) > 0 {
		status["conditions"] = others
		return true
	}
	if delete(status, "conditions"); len(status) == 0 {
		delete(o.Object, "status")
	}
	return true
}

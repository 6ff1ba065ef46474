// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Check looks at an object, nil where there is none, and says what is missing; "" when it is as wanted.
type Check func(o *unstructured.Unstructured) (missing string)

// Wait waits until the object ("deployments/web", "nodes/n1"; namespace empty for those without one) passes the check, or
// ctx ends: then the error says what was still missing.
func (c *API) Wait(ctx context.Context, namespace, what string, check Check) error {
	for {
		missing := ""
		r, name, err := c.resource(namespace, what)
		if err == nil {
			var o *unstructured.Unstructured
			o, err = r.Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				o, err = nil, nil
			}
			if err == nil {
				if missing = check(o); missing == "" {
					return nil
				}
			}
		}
		if err != nil { // the API server may be away or just learning of the resource
			missing = err.Error()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %s", what, ctx.Err(), missing)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Exists wants the object to be there.
func Exists() Check {
	return func(o *unstructured.Unstructured) string {
		if o == nil {
			return "it is not there"
		}
		return ""
	}
}

// Gone wants the object not to be there.
func Gone() Check {
	return func(o *unstructured.Unstructured) string {
		if o != nil {
			return "it is still there"
		}
		return ""
	}
}

// Condition wants a condition of the object's status to be true, such as Ready of a node or a pod.
func Condition(kind string) Check {
	return func(o *unstructured.Unstructured) string {
		if o == nil {
			return "it is not there"
		}
		all, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		for _, one := range all {
			m, _ := one.(map[string]any)
			if m["type"] != kind {
				continue
			}
			if m["status"] == "True" {
				return ""
			}
			return fmt.Sprintf("%s is %v: %v", kind, m["status"], m["message"])
		}
		return "it has no condition " + kind
	}
}

// RolledOut wants a Deployment, StatefulSet or DaemonSet to run its present template on every replica.
func RolledOut() Check {
	return func(o *unstructured.Unstructured) string {
		if o == nil {
			return "it is not there"
		}
		number := func(path ...string) int64 {
			n, _, _ := unstructured.NestedInt64(o.Object, path...)
			return n
		}
		if number("status", "observedGeneration") < o.GetGeneration() {
			return "the controller has not seen it yet"
		}
		want, updated, ready, all := number("spec", "replicas"), number("status", "updatedReplicas"), number("status", "readyReplicas"), number("status", "replicas")
		switch o.GetKind() {
		case "DaemonSet":
			want, updated = number("status", "desiredNumberScheduled"), number("status", "updatedNumberScheduled")
			ready, all = number("status", "numberAvailable"), number("status", "currentNumberScheduled")
			if want == 0 {
				return "no node is to run it"
			}
		case "Deployment":
			ready = number("status", "availableReplicas")
		}
		if updated < want || ready < want || all > want {
			return fmt.Sprintf("%d of %d are ready, %d updated, %d in all", ready, want, updated, all)
		}
		return ""
	}
}

// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// faulty has one policy of each of others' kinds in whose status control writes; it selects no pod. Istio's definitions let
// pass nothing else of a PeerAuthentication that Warren would not apply.
const faulty = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: faulty}
spec: {selector: {matchLabels: {app: none}}, rules: [{from: [{source: {ipBlocks: [nowhere]}}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: faulty, namespace: warren-system}
spec: {selector: {matchLabels: {app: none}}}
`

var (
	authorizationPolicies = schema.GroupVersionResource{Group: "security.istio.io", Version: "v1", Resource: "authorizationpolicies"}
	peerAuthentications   = schema.GroupVersionResource{Group: "security.istio.io", Version: "v1", Resource: "peerauthentications"}
)

// ApplyFaulty makes the faulty policies, waits until control has said so, and gives the first a condition of somebody
// else's as well. It may be called again. What does not go with the namespace goes with the test.
func (n *Namespace) ApplyFaulty() {
	n.t.Helper()
	n.Apply(faulty)
	n.t.Cleanup(func() {
		err := n.faulty(peerAuthentications).Delete(context.WithoutCancel(n.t.Context()), "faulty", metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			n.t.Error(err)
		}
	})
	Eventually(n.t, 30*time.Second, "faulty policies have conditions", func() string {
		for _, r := range []schema.GroupVersionResource{authorizationPolicies, peerAuthentications} {
			if status := n.faultyStatus(r); !strings.Contains(status, "warren.dev/Accepted") {
				return fmt.Sprintf("the status of %s is %s", r.Resource, status)
			}
		}
		return ""
	})
	if strings.Contains(n.faultyStatus(authorizationPolicies), "example.com/Reviewed") {
		return
	}
	add := `[{"op": "add", "path": "/status/conditions/-", "value": {"type": "example.com/Reviewed", "status": "True", "reason": "ByHand", "message": "seen"}}]`
	if _, err := n.faulty(authorizationPolicies).Patch(n.t.Context(), "faulty", types.JSONPatchType, []byte(add), metav1.PatchOptions{}, "status"); err != nil {
		n.t.Fatal(err)
	}
}

// checkUnjudged wants nothing of Warren's in the status of the faulty policies, and all of others'.
func (n *Namespace) checkUnjudged() {
	n.t.Helper()
	for r, want := range map[schema.GroupVersionResource]string{
		authorizationPolicies: "map[conditions:[map[message:seen reason:ByHand status:True type:example.com/Reviewed]]]", peerAuthentications: "",
	} {
		if got := n.faultyStatus(r); got != want {
			n.t.Errorf("the status of %s is %q, want %q", r.Resource, got, want)
		}
	}
}

// faultyStatus is "" where the policy has none, or is gone with Warren's namespace.
func (n *Namespace) faultyStatus(r schema.GroupVersionResource) string {
	n.t.Helper()
	o, err := n.faulty(r).Get(n.t.Context(), "faulty", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return ""
	}
	if err != nil {
		n.t.Fatal(err)
	}
	status, ok := o.Object["status"]
	if !ok {
		return ""
	}
	return fmt.Sprint(status)
}

// faulty is where the policy of that kind lies.
func (n *Namespace) faulty(r schema.GroupVersionResource) dynamic.ResourceInterface {
	if r == peerAuthentications {
		return n.mesh.Dynamic().Resource(r).Namespace(system)
	}
	return n.mesh.Dynamic().Resource(r).Namespace(n.Name)
}

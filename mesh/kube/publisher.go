// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"

	"github.com/warren-mesh/warren/mesh"
)

// Publisher makes results visible beside the objects they are about: annotations and conditions on the
// Kubernetes API, files below status/ for a directory of manifests. Safe for concurrent use.
type Publisher interface {
	// PublishCaptured sets the pod's warren.dev/captured to CapturedTrue or a reason word; "" takes it back.
	// podUID guards against a pod that was re-created under the same name.
	PublishCaptured(ctx context.Context, pod mesh.Name, podUID, value string) error
	// PublishCondition sets one condition of an object, named as Key.String does.
	PublishCondition(ctx context.Context, object string, c Condition) error
	// ForgetCondition takes back one condition of an object that is gone, where it does not go with the object.
	ForgetCondition(ctx context.Context, object, conditionType string) error
}

// Condition is what is known about an object, in the manner of metav1.Condition.
type Condition struct {
	Type    string `json:"type"`
	Status  bool   `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
	// ObservedGeneration is the generation of the object that the condition is about; 0 where none is told.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

const (
	// ConditionAccepted tells whether the object as written is in force.
	ConditionAccepted = "Accepted"
	// ConditionApplied tells of a MeshConfig whether the object as written is what the mesh is told.
	ConditionApplied = "Applied"
	// ReasonApplied: it is.
	ReasonApplied = "Applied"
	// ReasonAccepted: it is.
	ReasonAccepted = "Accepted"
	// ReasonInvalid: it is not; the last good one stays, or what stands in for it.
	ReasonInvalid = "Invalid"
	// ReasonPartial: it is, except for the fields the message names.
	ReasonPartial = "PartiallyApplied"
)

// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 holds Warren's own API types: only what no standard API expresses. The CustomResourceDefinition
// in deploy/chart/warren/crds is generated from them, validation included; mesh/kube checks the same rules where no
// API server did.
//
// +kubebuilder:object:generate=true
// +groupName=warren.dev
package v1alpha1

import "k8s.io/apimachinery/pkg/runtime/schema"

//go:generate go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.23.0 object:headerFile=../license.txt paths=. crd:allowDangerousTypes=true,maxDescLen=400 output:object:dir=. output:crd:dir=../../deploy/chart/warren/crds
//go:generate mv ../../deploy/chart/warren/crds/warren.dev_meshconfigs.yaml ../../deploy/chart/warren/crds/meshconfigs.warren.dev.yaml

// GroupVersion is the API group and version of the types.
var GroupVersion = schema.GroupVersion{Group: "warren.dev", Version: "v1alpha1"}

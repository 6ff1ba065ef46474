// SPDX-License-Identifier: Apache-2.0

// Package samples holds applications to try Warren with: ordinary Kubernetes objects, and a program for their
// containers.
package samples

import _ "embed"

// Shop is a small application of several services, outside the mesh as it stands: see shop/shop.yaml.
//
//go:embed shop/shop.yaml
var Shop string

// Enrol is the shop's namespace as a part of the mesh.
//
//go:embed shop/enrol.yaml
var Enrol string

// Strict lets the shop accept mutual TLS only.
//
//go:embed shop/strict.yaml
var Strict string

// SPDX-License-Identifier: Apache-2.0

// Package demo is the demo on a real cluster: the shop as pods of Kubernetes, Warren installed by its chart. What happens
// there, and what is told of it, is package tests/demo's.
package demo

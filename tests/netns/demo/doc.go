// SPDX-License-Identifier: Apache-2.0

// Package demo is the demo on this machine alone: two nodes whose pods are network namespaces. What happens on them, and
// what is told of it, is package tests/demo's.
package demo

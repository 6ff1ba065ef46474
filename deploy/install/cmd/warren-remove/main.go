// SPDX-License-Identifier: Apache-2.0

// Command warren-remove takes Warren off every node of its cluster, as the Job that `helm uninstall` runs first.
package main

func main() {}

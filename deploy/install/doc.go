// SPDX-License-Identifier: Apache-2.0

// Package install builds Warren's image without Docker and installs Warren on a Kubernetes cluster by its Helm chart,
// and removes it again. Command warren-deploy is its command line; docs/operations/install.md tells the whole of it.
//
//	img, err := install.BuildImage(ctx, install.BuildOptions{})    // img.Archive is a tar for `ctr images import`, `docker load`
//	err = install.Install(ctx, install.Options{Config: restConfig, Image: img.Ref})   // returns when every part is ready
//	err = install.Install(ctx, install.Options{...})                                  // again: an upgrade
//	err = install.Uninstall(ctx, install.Options{Config: restConfig})                 // leaves nothing on nodes or in the API
package install

// SPDX-License-Identifier: Apache-2.0

// Package informers keeps a mesh.Store equal to what the Kubernetes API says, and publishes results there. It is
// manifests' sibling for machines with an API server.
//
// A kind's objects come over one watch (streamed from the start where the server can) and are kept as the bytes
// of what the Translator reads of them: a change of anything else is none, and the same bytes are the snapshot
// on disk, from which the mesh is served, marked stale, when the process starts while the API server is away.
package informers

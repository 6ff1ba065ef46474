#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Generates the Go code of one .proto file, named relative to the module's root. Run by `go generate`.
# The generator is the module's own tool; protoc is pinned because its version is written into the output. What protoc
# imports of its own (google/protobuf) comes with a module that client-go requires: Debian has it in another package.
set -eu
want="libprotoc 3.21.12"
cd "$(dirname "$0")/../.."
have=$(protoc --version 2>/dev/null || true)
if [ "$have" != "$want" ]; then
	echo "generate $1: need $want, found '${have:-none}' (Debian: apt-get install protobuf-compiler)" >&2
	exit 1
fi
imports=$(go list -m -f '{{.Dir}}' github.com/google/gnostic-models)/third_party
exec protoc --plugin=protoc-gen-go="$(go tool -n protoc-gen-go)" -I . -I "$imports" --go_out=. --go_opt=paths=source_relative "$1"

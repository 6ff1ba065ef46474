#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Everything that must hold for a change: `make test`. It installs what is missing on Debian (elsewhere it names it),
# and ends with the line "N passed, N failed, N skipped". Needs root and Go.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "make test: needs root, for network namespaces and kernel programs: run it as root" >&2; exit 1; }
command -v go >/dev/null || { echo "make test: needs Go: see go.mod for the version; https://go.dev/doc/install" >&2; exit 1; }
export WARREN_REQUIRE_ROOT=1
started=$SECONDS
say() { printf '\n== %s (%ds since the start)\n' "$*" $((SECONDS - started)); }

say "tools"
declare -A package=([clang-14]=clang-14 [llvm-strip-14]=llvm-14 [protoc]=protobuf-compiler [nft]=nftables
    [haproxy]=haproxy [tcpdump]=tcpdump [make]=make [git]=git)
missing=()
for tool in "${!package[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null || missing+=("${package[$tool]}")
done
[ -e /usr/include/bpf/bpf_helpers.h ] || missing+=(libbpf-dev)
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || { echo "make test: missing tools; Debian's packages for them: ${missing[*]}" >&2; exit 1; }
    echo "installing ${missing[*]} (about a minute)"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
fi
bash tests/envoy.sh || echo "no Envoy: its tests are skipped, and fail under CI" >&2
go version

# A step that fails is noted and the next one runs: one run tells everything. Without the binaries nothing can.
failed=()
step() {
    local name=$1
    shift
    say "$name"
    "$@" || failed+=("$name")
}
quiet_make() { make --no-print-directory "$@" 2>&1 | sed '/^make\(\[[0-9]*\]\)\?: \*\*\* /d'; }

say "build (about three minutes with cold caches)"
make --no-print-directory build || {
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
}
step "generated files" quiet_make verify-generated
step "gofmt, vet, staticcheck (about two minutes with cold caches)" quiet_make lint
step "race detector (about three minutes)" quiet_make test-race

# The count of this step stands at the end. Earlier steps that failed are added to it, one failure each.
say "tests and fuzz targets (about six minutes)"
count=$(mktemp)
trap 'rm -f "$count"' EXIT
status=0
quiet_make test-all | tee "$count" | sed -u '/^[0-9]* passed, [0-9]* failed, [0-9]* skipped$/d' || status=1
read -r passed bad skipped < <(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p' "$count" | tail -1) ||
    { passed=0 bad=1 skipped=0; }
for f in "${failed[@]}"; do
    echo "failed before the tests: $f"
    bad=$((bad + 1))
done
echo "$passed passed, $bad failed, $skipped skipped"
[ "$status" = 0 ] && [ "$bad" = 0 ]

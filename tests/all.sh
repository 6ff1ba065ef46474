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
    [haproxy]=haproxy [tcpdump]=tcpdump [make]=make [git]=git [ip]=iproute2 [unshare]=util-linux [gcc]=gcc [pkg-config]=pkg-config)
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
bash tests/zipkin.sh || echo "no Zipkin: its test is skipped, and fails under CI" >&2
go version

# A step that fails is noted and the next one runs: one run tells everything. Without the binaries nothing can.
failed=()
step() {
    local name=$1
    shift
    say "$name"
    "$@" || failed+=("$name")
}
quiet_make() { make --no-print-directory "$@" 2>&1 | sed -u '/^make\(\[[0-9]*\]\)\?: \*\*\* /d'; }

say "build (about three minutes with cold caches)"
make --no-print-directory build || {
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
}
step "generated files" quiet_make verify-generated
step "gofmt, vet, staticcheck (about two minutes with cold caches)" quiet_make lint
step "race detector (about three minutes)" quiet_make test-race

# The counts of these steps are added up at the end; earlier steps that failed are one failure each.
passed=0 bad=0 skipped=0
last=$(mktemp)
trap 'rm -f "$last"' EXIT
count='^\([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$'
counted() {
    local name=$1 status=0 p b s
    shift
    say "$name"
    quiet_make "$@" | tee "$last" | sed -u "/$count/d" || status=1
    read -r p b s < <(sed -n "s/$count/\1 \2 \3/p" "$last" | awk '{ p += $1; b += $2; s += $3 } END { print p + 0, b + 0, s + 0 }')
    [ "$status" = 0 ] || [ "$b" != 0 ] || b=1
    echo "$name: $p passed, $b failed, $s skipped."
    passed=$((passed + p)) bad=$((bad + b)) skipped=$((skipped + s))
}
counted "tests and fuzz targets (about five minutes)" test-all
counted "the installation" test-install
counted "the cluster of the tests (a minute; the first time Kubernetes is compiled, 10 to 20 more)" test-cluster
counted "informers and control against a real API server (half a minute)" test-apiserver
counted "tests on a real Kubernetes (about ten minutes)" e2e
for f in "${failed[@]}"; do
    echo "failed before the tests: $f"
    bad=$((bad + 1))
done
echo "$passed passed, $bad failed, $skipped skipped"
[ "$bad" = 0 ]

#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Fetches the Zipkin server that tests/netns sends spans to, unless it is there: from Maven Central, by version and hash,
# into the user's cache. It needs a Java runtime, which is installed on Debian and named elsewhere. WARREN_ZIPKIN names
# another server's jar.
set -euo pipefail
version=3.5.1
hash=7ac633a6832647e71e50012a5e3e91fbc7054414955261724526030faf271d8d
cache=${XDG_CACHE_HOME:-${HOME:?}/.cache}/warren
jar=${WARREN_ZIPKIN:-$cache/zipkin-server-$version-exec.jar}

if ! command -v java >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "zipkin: needs a Java runtime, 17 or newer; Debian's package for it: default-jre-headless" >&2
        exit 1
    fi
    echo "zipkin: installing default-jre-headless"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends default-jre-headless >/dev/null
fi
if [ -e "$jar" ]; then
    echo "zipkin: $jar"
    exit 0
fi
if [ -n "${WARREN_ZIPKIN:-}" ]; then
    echo "zipkin: WARREN_ZIPKIN=$WARREN_ZIPKIN is not there" >&2
    exit 1
fi
echo "zipkin: fetching $version from Maven Central to $jar (131 MB)"
mkdir -p "$cache"
fresh=$(mktemp "$cache/.zipkin.XXXXXX")
trap 'rm -f "$fresh"' EXIT
curl -sSfL --retry 2 -o "$fresh" "https://repo1.maven.org/maven2/io/zipkin/zipkin-server/$version/zipkin-server-$version-exec.jar"
echo "$hash  $fresh" | sha256sum --quiet -c
chmod 644 "$fresh"
mv "$fresh" "$jar"

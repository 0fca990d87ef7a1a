#!/usr/bin/env bash
# Holds the protos to those of the last release: what was in it stays.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source .ci/tools.sh
if ! tag=$(git describe --tags --match 'v[0-9]*' --abbrev=0 2>/dev/null); then
    echo "NOT CHECKED: there is no tag of a release in this clone yet, so there is nothing to" \
        "compare with." >&2
    exit 77
fi
echo "Compared with $tag."
buf breaking --against ".git#tag=$tag"

#!/usr/bin/env bash
# Generates hitkeepauthpb from proto/hitkeep. With --check it changes nothing, and fails if
# what is committed differs from what would be generated.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# .ci/tools.sh puts buf there; any other of the same version does as well.
buf=target/ci-tools/node_modules/.bin/buf
[[ -x $buf ]] || buf=buf

case ${1-} in
    "")
        "$buf" generate --template clients/go/buf.gen.yaml
        ;;
    --check)
        made=$(mktemp --directory)
        trap 'rm -rf "$made"' EXIT
        "$buf" generate --template clients/go/buf.gen.yaml --output "$made"
        if ! diff --recursive clients/go/hitkeepauthpb "$made/clients/go/hitkeepauthpb"; then
            echo "proto/ and clients/go/hitkeepauthpb differ: run clients/go/generate.sh" >&2
            exit 1
        fi
        ;;
    *)
        echo "usage: $0 [--check]" >&2
        exit 2
        ;;
esac

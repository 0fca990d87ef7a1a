#!/usr/bin/env bash
# Holds the last release and this one to what docs/OPERATIONS.md says of upgrades: both on one
# database, in both orders. It builds the newest tag of a release, or takes the binary that it is
# given: .ci/upgrade.sh [BINARY]. The tests are in tests/cli/upgrade.rs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source .ci/tools.sh

previous=${1:-}
if [[ -z $previous ]]; then
    # The tag of this very commit is this release, and not the one before.
    if ! tag=$(git describe --tags --match 'v[0-9]*' --abbrev=0 HEAD^ 2>/dev/null); then
        echo "NOT CHECKED: there is no tag of a release in this clone yet, so there is nothing" \
            "to upgrade from. Give the binary of an older version: .ci/upgrade.sh BINARY" >&2
        exit 77
    fi
    folder=$PWD/$TOOLS/previous
    previous=$folder/hitkeep-auth-$tag
    if [[ ! -x $previous ]]; then
        rm -rf "$folder"
        mkdir -p "$folder"
        git archive --prefix=source/ "$tag" | tar --extract --directory "$folder"
        (cd "$folder/source" &&
            CARGO_TARGET_DIR=$folder/target CARGO_PROFILE_DEV_DEBUG=false \
                cargo build --locked --bin hitkeep-auth)
        mv "$folder/target/debug/hitkeep-auth" "$previous"
        rm -rf "$folder/source" "$folder/target"
    fi
    echo "The release before this one is $tag."
fi
[[ -x $previous ]] || { echo "$previous is no program." >&2 && exit 1; }
HITKEEP_AUTH_PREVIOUS=$(realpath "$previous") cargo test --test cli -- upgrade::

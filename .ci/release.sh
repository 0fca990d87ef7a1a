#!/usr/bin/env bash
# Makes a release in one commit and one tag: .ci/release.sh VERSION
#
# It sets the version wherever it is written, turns the changelog's [Unreleased] into the
# version's section, commits, and tags. It pushes nothing: docs/RELEASING.md. With --try, it does
# so in a clone, as the gate does, for what has a version and is not known here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    printf 'release.sh: %s\n' "$1" >&2
    exit 1
}

readonly version=${1:-}
if [[ $version == --try ]]; then
    clone=$(mktemp --directory)
    trap 'rm -rf "$clone"' EXIT
    git clone --quiet . "$clone"
    cd "$clone"
    git config user.name nobody
    git config user.email nobody@example.org
    printf '\n## [Unreleased]\n\n- Tried.\n' >CHANGELOG.md
    git commit --quiet --all --message "docs: try a release" --no-verify
    .ci/release.sh 999.0.0
    git describe --exact-match
    cargo metadata --locked --offline --format-version 1 >/dev/null
    exit
fi
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || fail "give a version, such as 0.2.0"
[[ -z $(git status --porcelain) ]] || fail "commit or stash what was changed"
! git rev-parse --quiet --verify "refs/tags/v$version" >/dev/null || fail "v$version is there already"
current=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
readonly current
# The first release is of the version that is there.
newest=$(printf '%s\n' "$current" "$version" | sort --version-sort | tail -n 1)
[[ $newest == "$version" ]] || fail "$version is below $current"
notes=$(sed '1,/^## \[Unreleased\]/d; /^## /,$d' CHANGELOG.md)
[[ $notes =~ [[:alnum:]] ]] || fail "the changelog has nothing under [Unreleased]"

# All of it or nothing.
trap 'git restore --staged --worktree .' ERR
if [[ $version != "$current" ]]; then
    # Of the crates and of their dependencies on each other.
    sed -i -e "/^\[workspace.package\]/,/^\$/s/^version = \"$current\"/version = \"$version\"/" \
        -e "/path = \"\(crates\|\.\.\)\//s/version = \"$current\"/version = \"$version\"/" \
        Cargo.toml crates/*/Cargo.toml
    sed -i "s/^\(version\|appVersion\): .*/\1: $version/" deploy/helm/hitkeep-auth/Chart.yaml
    sed -i "s/\(hitkeep-auth\):$current\$/\1:$version/" deploy/kubernetes/*.yaml
    # Nothing else in the lock files may change with it.
    cargo update --quiet --offline --workspace
    cargo update --quiet --offline --workspace --manifest-path fuzz/Cargo.toml
fi
sed -i "s/^## \[Unreleased\]\$/&\n\n## [$version] - $(date --utc +%F)/" CHANGELOG.md
git add --update
git commit --quiet --message "release: set the version $version" \
    --message "What has changed is in CHANGELOG.md, which programs and people read by version."
git tag --annotate "v$version" --message "hitkeep-auth $version" --message "$notes" --cleanup=verbatim
git show --stat --oneline HEAD

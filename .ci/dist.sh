#!/usr/bin/env bash
# Packs a binary that was built: .ci/dist.sh BINARY [REVISION]
#
# It makes in target/dist a tarball, a package for Debian and Ubuntu, an SBOM in CycloneDX,
# and SHA256SUMS. The binary has to run on this machine, for it writes its own completions
# and manual pages. The same binary and commit make the same files, byte for byte.
# The revision is that of the package (VERSION-REVISION); the first one is 1. DIST is another
# folder to make them in, and DIST_LEVEL=1 makes them quick instead of small. With MINISIGN_KEY, a
# secret key of minisign, SHA256SUMS is signed; its password is asked for.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source .ci/tools.sh

binary=$1
readonly revision=${2:-1} dist=${DIST:-target/dist} level=${DIST_LEVEL:-9} name=hitkeep-auth
signing_key=${MINISIGN_KEY:+$(realpath "$MINISIGN_KEY")}
readonly signing_key
# Nothing depends on where, when and by whom it is packed.
export LC_ALL=C TZ=UTC
umask 022
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

version=$("$binary" --version)
version=${version#"$name "}
target=$(rustc -vV | sed -n 's/^host: //p')
readonly version target package=$name-$version-$target

# A folder as a reproducible tarball, on standard output.
tarball() {
    tar --create --directory "$(dirname "$1")" --sort=name --format=gnu --owner=0 --group=0 \
        --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" "$(basename "$1")" | gzip -n "-$level"
}

# Where it goes, its mode, and what.
put() {
    local folder=$1 mode=$2
    shift 2
    install -d -m 755 "$folder"
    install -m "$mode" -t "$folder" "$@"
}

make_tarball() {
    local -r root=$work/$package
    put "$root" 755 "$binary"
    put "$root" 644 LICENSE README.md CHANGELOG.md
    put "$root/completions" 644 "$work"/completions/*
    put "$root/man/man1" 644 "$work"/man/*
    put "$root/systemd" 644 deploy/systemd/*
    tarball "$root" >"$dist/$package.tar.gz"
}

# The newest version of the C library that a symbol is of.
needed_libc() {
    objdump --dynamic-syms "$binary" | sed -n 's/.*(\?GLIBC_\([0-9.]*\).*/\1/p' | sort -V | tail -n 1
}

make_deb() {
    local -r root=$work/deb
    local size architecture unit
    architecture=$(dpkg --print-architecture)
    put "$root/usr/bin" 755 "$binary"
    put "$root/usr/lib/systemd/system" 644 deploy/systemd/*.service
    for unit in hitkeep-auth hitkeep-auth-; do
        put "$root/usr/lib/systemd/system/$unit.service.d" 644 deploy/systemd/hardening.conf
        mv "$root/usr/lib/systemd/system/$unit.service.d/"{,10-}hardening.conf
    done
    put "$root/etc/$name" 640 deploy/systemd/environment
    put "$root/usr/share/bash-completion/completions" 644 "$work/completions/$name"
    put "$root/usr/share/zsh/vendor-completions" 644 "$work/completions/_$name"
    put "$root/usr/share/fish/vendor_completions.d" 644 "$work/completions/$name.fish"
    put "$root/usr/share/man/man1" 644 "$work"/man/*
    put "$root/usr/share/doc/$name" 644 README.md CHANGELOG.md
    install -m 644 LICENSE "$root/usr/share/doc/$name/copyright"
    mv "$root/usr/share/doc/$name/"{CHANGELOG.md,changelog}
    gzip -9n "$root"/usr/share/man/man1/* "$root/usr/share/doc/$name/changelog"
    put "$root/DEBIAN" 755 deploy/debian/{postinst,prerm,postrm}
    echo "/etc/$name/environment" >"$root/DEBIAN/conffiles"
    size=$(du --apparent-size --block-size=1024 --summarize "$root" | cut -f1)
    sed -e "s/@VERSION@/$version-$revision/" -e "s/@ARCHITECTURE@/$architecture/" \
        -e "s/@SIZE@/$size/" -e "s/@LIBC@/$(needed_libc)/" deploy/debian/control \
        >"$root/DEBIAN/control"
    (cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
    find "$root" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +
    dpkg-deb --root-owner-group --uniform-compression --threads-max=1 -Zxz "-z$level" \
        --build "$root" "$dist/${name}_$version-${revision}_$architecture.deb" >/dev/null
}

# It has the folder of the sources in it, and a serial number drawn by chance.
make_sbom() {
    "$TOOLS/bin/cargo-cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 \
        --no-default-features --target "$target" --override-filename sbom
    sed -e "s#file://$PWD#file:///$name#g" -e '/"serialNumber"/d' sbom.json \
        >"$dist/$package.cdx.json"
    find . -path ./target -prune -o -name sbom.json -exec rm {} +
}

work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT
# Under the name that it will have, and readable whatever it was.
install -D -m 755 "$binary" "$work/binary/$name"
binary=$work/binary/$name
mkdir -p "$work/completions" "$work/man" "$dist"
rm -f "$dist/$name"[-_]* "$dist/SHA256SUMS" "$dist/SHA256SUMS.minisig"
"$binary" completions bash >"$work/completions/$name"
"$binary" completions zsh >"$work/completions/_$name"
"$binary" completions fish >"$work/completions/$name.fish"
"$binary" man "$work/man"
make_tarball
if command -v dpkg-deb >/dev/null; then
    make_deb
else
    echo "No dpkg-deb: there is no package for Debian." >&2
fi
make_sbom
cd "$dist"
sha256sum "$name"[-_]* >SHA256SUMS
cat SHA256SUMS
if [[ -n $signing_key ]]; then
    # The trusted comment is signed as well, and would have the time in it by default.
    minisign -S -s "$signing_key" -m SHA256SUMS -t "$name $version-$revision" \
        -c "signature of $name $version"
else
    echo "MINISIGN_KEY names no key: SHA256SUMS is not signed." >&2
fi

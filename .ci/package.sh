#!/usr/bin/env bash
# Packs a binary, and does with the package what a machine's owner does, on a small Debian 12:
# .ci/package.sh BINARY POSTGRES, which is the folder of Postgres' programs.
#
# It boots systemd in a container, installs the package, does what README.md says from there to a
# token that is revoked, upgrades, and purges.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source .ci/tools.sh
readonly postgres=$2 account=hitkeep-auth
# In tenths, of 100, as systemd-analyze counts what an attacker could do: more came unnoticed.
readonly MAX_EXPOSURE=14
# From the installed package to a token that was issued, checked and revoked, in seconds.
readonly MAX_START=60
# The exit code if the package could be made but not installed here.
readonly NOT_CHECKED=77

fail() {
    printf 'package.sh: %s\n' "$1" >&2
    exit 1
}

work=$(mktemp --directory)
readonly root=$work/root
machine=
finish() {
    if [[ -n $machine ]]; then
        kill "$machine" 2>/dev/null && wait "$machine" 2>/dev/null || true
    fi
    [[ ! -e $work/data/PG_VERSION ]] ||
        as_unprivileged "$postgres/pg_ctl" --pgdata "$work/data" stop --mode immediate >/dev/null
    rm -rf "$work"
}
trap finish EXIT
chmod 755 "$work"

# Two revisions, by different users on different machines: what is in them is the same.
strip --strip-debug -o "$work/$account" "$1"
DIST_LEVEL=1 DIST=$work/1 .ci/dist.sh "$work/$account" 1
(umask 077 && TZ=Pacific/Auckland DIST_LEVEL=1 DIST=$work/2 .ci/dist.sh "$work/$account" 2 >/dev/null)
diff <(grep -v '\.deb$' "$work/1/SHA256SUMS") <(grep -v '\.deb$' "$work/2/SHA256SUMS") ||
    fail "the tarball and the SBOM cannot be made again"
for revision in 1 2; do
    dpkg-deb --fsys-tarfile "$work/$revision/"*.deb | sha256sum
done | uniq | wc -l | grep -qx 1 || fail "the package cannot be made again"
if [[ $(tar -xzOf "$work/1/"*.tar.gz --wildcards '*/completions/hitkeep-auth') != \
    "$("$1" completions bash)" ]]; then
    fail "the completions are not those of the binary"
fi

# What a release is signed with, and what its users do with it; here with a key of our own.
if ! command -v minisign >/dev/null && can_install; then
    apt_install minisign
fi
if command -v minisign >/dev/null; then
    minisign -G -W -f -p "$work/key.pub" -s "$work/key" >/dev/null
    DIST_LEVEL=1 DIST=$work/1 MINISIGN_KEY=$work/key .ci/dist.sh "$work/$account" 1 >/dev/null
    (cd "$work/1" && minisign -V -q -p "$work/key.pub" -m SHA256SUMS && sha256sum --check --quiet SHA256SUMS) ||
        fail "the signature is not that of the files"
    echo >>"$work/1/SHA256SUMS"
    ! minisign -V -q -p "$work/key.pub" -m "$work/1/SHA256SUMS" 2>/dev/null ||
        fail "files that were changed have a good signature"
else
    echo "Skipped: there is no minisign, so no signature was made." >&2
fi

base=$TOOLS/debian-12-systemd.tar
if [[ $EUID -ne 0 || ! -e $base ]] || ! command -v systemd-nspawn >/dev/null; then
    echo "NOT CHECKED: the package was made and not installed anywhere." >&2
    exit $NOT_CHECKED
fi

echo "--- Boots a Debian"
mkdir "$root"
tar --extract --file "$base" --directory "$root"
chmod 755 "$root"
install -d -o "$(as_unprivileged id -u)" "$work/data" "$work/sockets"
# Not one of the machine that the host's systemd knows, if it has one.
systemd-nspawn --register=no --keep-unit --boot --quiet --directory="$root" \
    --bind="$work/sockets:/run/postgresql" </dev/null >"$work/boot.log" 2>&1 &
machine=$!

# Runs a command in it, in the namespaces of its first process.
inside() {
    local first
    first=$(<"/proc/$machine/task/$machine/children")
    nsenter --target "${first%% *}" --mount --uts --ipc --net --pid --cgroup --root --wd /usr/bin/env -i \
        PATH=/usr/sbin:/usr/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive SYSTEMD_PAGER= "$@"
}

for _ in {1..300}; do
    state=$(inside systemctl is-system-running 2>/dev/null) || true
    [[ $state != running ]] || break
    sleep 0.2
done
if [[ $state != running ]]; then
    cat "$work/boot.log" >&2
    echo "NOT CHECKED: the package was not installed anywhere, because systemd does not run in a" \
        "container here: ${state:-it does not answer}." >&2
    exit $NOT_CHECKED
fi

install_deb() {
    cp "$work/$1/"*.deb "$root/var/tmp/package.deb"
    inside dpkg --install /var/tmp/package.deb
    rm "$root/var/tmp/package.deb"
}

# Starts a unit, or says what it said.
start() {
    if ! inside systemctl start "$1"; then
        inside journalctl --no-pager --unit "$1" >&2
        fail "$1 does not start"
    fi
}

# What systemd knows of the service.
property() {
    inside systemctl show --value --property "$1" "$account"
}

# One of the commands for people. It takes whose token it is, and reads standard input.
call() {
    local -r token=$1
    shift
    inside "HITKEEP_AUTH_TOKEN=$token" "HITKEEP_AUTH_SERVER=$socket" hitkeep-auth "$@"
}

expect() {
    local -r wanted=$1 given=$(cat)
    [[ $given == *"$wanted"* ]] || fail "expected $wanted: $given"
}

# The block of README.md below the comment that names this file.
readme() {
    sed '1,/^<!-- \.ci\/package\.sh /d' README.md | sed '1d; /^```$/,$d'
}

# In the place of README.md's first block, which needs a mirror of Debian's packages.
echo "--- Starts Postgres"
as_unprivileged "$postgres/initdb" --pgdata "$work/data" --auth trust --username postgres --no-sync >/dev/null
as_unprivileged "$postgres/postgres" --single -D "$work/data" postgres >/dev/null <<'EOF'
CREATE ROLE "hitkeep-auth" LOGIN
CREATE DATABASE hitkeep OWNER "hitkeep-auth"
EOF
as_unprivileged "$postgres/pg_ctl" --pgdata "$work/data" --wait --silent --log "$work/data/log" \
    --options "-c listen_addresses='' -c fsync=off -k $work/sockets" start

echo "--- Installs it"
install_deb 1
begun=$SECONDS
[[ $(stat --format '%a %U' "$root/etc/$account/environment") == "640 root" ]] || fail "the environment is open"
inside getent passwd "$account"
[[ -s $root/usr/share/man/man1/hitkeep-auth-serve.1.gz ]] || fail "there is no manual"
[[ $(property ActiveState) == inactive ]] || fail "it is started without a database"

echo "--- Issues, checks and revokes a token, as README.md says"
readonly url=/etc/$account/database-url socket=unix:/run/$account/auth.sock
# The machine's own network is there, with its ports.
echo "HITKEEP_AUTH_LISTEN=$socket" >>"$root/etc/$account/environment"
# And says what the rest of this file goes on with.
if ! said=$(inside "HITKEEP_AUTH_SERVER=$socket" bash -eu -o pipefail -c "$(readme)
printf '\n%s\n%s' \"\$token\" \"\$sidecar\""); then
    inside journalctl --no-pager --unit "$account*" >&2
    fail "what README.md says does not work"
fi
took=$((SECONDS - begun))
{ read -r token && read -r sidecar; } < <(tail -n 2 <<<"$said")
[[ $said == *$'\nactive\n'*$'\ninactive: revoked\n\n'"$token"* ]] ||
    fail "by README.md, a token is not active and then revoked: $said"
echo "From the installed package to a token that is refused: $took s, of at most $MAX_START."
((took <= MAX_START)) || fail "it takes too long"
# Only then was it started, for systemd.
[[ $(property StatusText) == "introspection serves" ]] || fail "systemd was not told that it serves"
inside hitkeep-auth healthcheck ready --listen "$socket"
check() {
    call "$sidecar" introspect --json <<<"$token"
}
check | expect INACTIVE_REASON_REVOKED
for unit in "$account" "$account-replica" "$account-migrate"; do
    inside systemd-analyze --man=no verify "$unit.service"
    inside systemd-analyze --threshold=$MAX_EXPOSURE security "$unit.service" | tail -n 1
done

echo "--- Upgrades it"
inside systemctl reload "$account"
before=$(property MainPID)
install_deb 2
grep --quiet "^HITKEEP_AUTH_LISTEN=$socket$" "$root/etc/$account/environment" || fail "the configuration is lost"
[[ $(stat --format %a "$root/etc/$account/environment") == 640 ]] || fail "the environment is open"
# The old server goes on until it is restarted.
[[ $(property MainPID) == "$before" ]] || fail "the upgrade has restarted it"
check | expect INACTIVE_REASON_REVOKED
start "$account-migrate"
inside systemctl restart "$account"
[[ $(property MainPID) != "$before" ]] || fail "it was not restarted"
check | expect INACTIVE_REASON_REVOKED

echo "--- Follows it"
replicate=$(inside hitkeep-auth service-account create edge --allow replicate --database-url-file "$url")
install -m 600 /dev/stdin "$root/etc/$account/upstream-token" <<<"$replicate"
replica=unix:/run/$account-replica/auth.sock
sed -i "s#^HITKEEP_AUTH_LISTEN=.*#HITKEEP_AUTH_LISTEN=$replica\nHITKEEP_AUTH_UPSTREAM=$socket#" \
    "$root/etc/$account/environment"
start "$account-replica"
call "$sidecar" introspect --json --server "$replica" <<<"$token" | expect INACTIVE_REASON_REVOKED

echo "--- Purges it"
inside systemctl stop "$account-replica"
inside systemctl enable "$account"
inside dpkg --purge "$account"
inside systemctl is-active "$account" && fail "it still runs"
left=$(inside find / -xdev -name '*hitkeep*' -print; inside ls /run | grep hitkeep || true)
[[ -z $left ]] || fail "it leaves $left"
if inside getent passwd "$account" || inside getent group "$account"; then
    fail "it leaves its user"
fi
if inside dpkg --status "$account" 2>/dev/null; then
    fail "dpkg still knows it"
fi

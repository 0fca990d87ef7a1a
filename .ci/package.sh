#!/usr/bin/env bash
# Packs a binary, and does with the package what a machine's owner does, in a chroot of Debian 12:
# .ci/package.sh BINARY POSTGRES, which is the folder of Postgres' programs.
#
# It installs the package, starts the service as its unit says, issues, checks and revokes a
# token, upgrades, and purges. There is no systemd in a chroot: commands, environment and
# credentials are taken from the unit, and its hardening is judged by systemd-analyze alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source .ci/tools.sh
readonly postgres=$2 account=hitkeep-auth units=usr/lib/systemd/system
# In tenths, of 100, as systemd-analyze counts what an attacker could do: more came unnoticed.
readonly MAX_EXPOSURE=15

fail() {
    printf 'package.sh: %s\n' "$1" >&2
    exit 1
}

work=$(mktemp --directory)
readonly root=$work/root
server=
NOTIFIED_PID=
finish() {
    [[ -z $NOTIFIED_PID ]] || kill "$NOTIFIED_PID" || true
    [[ -z $server ]] || kill "$server" 2>/dev/null || true
    [[ ! -d $work/data ]] ||
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

base=$TOOLS/debian-12.tar
if [[ $EUID -ne 0 || ! -e $base ]]; then
    echo "NOT CHECKED: the package was made and not installed, which needs root and debootstrap." >&2
    exit
fi
mkdir "$root"
tar --extract --file "$base" --directory "$root"

inside() {
    chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"
}

install_deb() {
    cp "$work/$1/"*.deb "$root/tmp/package.deb"
    inside dpkg --install /tmp/package.deb
    rm "$root/tmp/package.deb"
}

echo "--- Installs it"
install_deb 1
[[ $(stat --format '%a %U' "$root/etc/$account/environment") == "640 root" ]] || fail "the environment is open"
inside getent passwd "$account"
[[ -s $root/usr/share/man/man1/hitkeep-auth-serve.1.gz ]] || fail "there is no manual"

if command -v systemd-analyze >/dev/null; then
    echo "--- Judges its units"
    # Beside those of systemd itself, which they refer to.
    readonly machine=$work/machine
    install -D /bin/kill "$machine/bin/kill"
    dpkg-deb --extract "$work/1/"*.deb "$machine"
    cp --recursive --no-clobber /lib/systemd/system/. "$machine/$units"
    for unit in "$root/$units"/hitkeep-auth*.service; do
        unit=${unit##*/}
        systemd-analyze --root="$machine" --man=no verify "$unit"
        systemd-analyze --root="$machine" --offline=true --no-pager \
            --threshold="$MAX_EXPOSURE" security "$unit" | tail -n 1
    done
else
    echo "NOT CHECKED: the units, because there is no systemd-analyze." >&2
fi

echo "--- Starts Postgres"
install -d -o "$(as_unprivileged id -u)" "$work/data" "$root/run/postgresql"
as_unprivileged "$postgres/initdb" --pgdata "$work/data" --auth trust --username postgres --no-sync >/dev/null
as_unprivileged "$postgres/pg_ctl" --pgdata "$work/data" --wait --silent --log "$work/data/log" \
    --options "-c listen_addresses='' -c fsync=off -k $root/run/postgresql" start

echo "--- Configures it"
install -m 600 /dev/stdin "$root/etc/$account/database-url" <<<"postgres://postgres@%2Frun%2Fpostgresql/postgres"
readonly socket=unix:/run/$account/auth.sock
echo "HITKEEP_AUTH_LISTEN=$socket" >>"$root/etc/$account/environment"

# What the unit says of a setting.
setting() {
    sed -n "s/^$2=//p" "$root/$units/$1.service"
}

# Becomes what the unit would start.
as_unit() {
    local -r credentials=/run/credentials/$1.service
    local environment=() name path line owner folder
    owner=$(inside id -u "$account")
    install -d -m 500 -o "$owner" "$root$credentials"
    while IFS=: read -r name path; do
        install -m 400 -o "$owner" "$root$path" "$root$credentials/$name"
    done < <(setting "$1" LoadCredential)
    while read -r folder; do
        install -d -o "$owner" "$root/run/$folder"
    done < <(setting "$1" RuntimeDirectory)
    while read -r line; do
        environment+=("${line//%d/$credentials}")
    done < <(setting "$1" Environment; grep '^[^#]' "$root$(setting "$1" EnvironmentFile)")
    # A command's words are separated by spaces alone.
    exec chroot "--userspec=$account:$account" "$root" /usr/bin/env -i NOTIFY_SOCKET=/run/notify \
        "${environment[@]}" $(setting "$1" ExecStart)
}

# Prints what systemd would be sent.
coproc NOTIFIED {
    exec python3 -uc '
import os, socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
while True:
    print(listener.recv(4096).decode(), flush=True)
' "$root/run/notify"
}

await() {
    local line
    while read -r -t 120 -u "${NOTIFIED[0]}" line; do
        [[ $line != "$1" ]] || return 0
    done
    cat "$work/log" >&2
    fail "systemd would wait for $1"
}

start() {
    (as_unit hitkeep-auth) 2>>"$work/log" &
    server=$!
    await READY=1
}

stop() {
    kill "$server"
    await STOPPING=1
    wait "$server" || fail "it ended with $?"
    server=
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

echo "--- Issues, checks and revokes a token"
(as_unit hitkeep-auth-migrate)
start
readonly url=(--database-url-file "/etc/$account/database-url")
dashboard=$(inside hitkeep-auth service-account create dashboard --allow manage,directory "${url[@]}")
sidecar=$(inside hitkeep-auth service-account create sidecar --allow introspect "${url[@]}")
readonly alice=00000000-0000-7000-8000-0000000000a1
call "$dashboard" directory apply - <<<"[{\"put_user\": {\"id\": \"$alice\", \"instance_role\": \"INSTANCE_ROLE_USER\"}}]"
created=$(call "$dashboard" client create --actor "$alice" --user "$alice" --name notebook --json)
token=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["token"])' <<<"$created")
id=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["api_client"]["id"])' <<<"$created")
check() {
    call "$sidecar" introspect --json <<<"$token"
}
check | expect '"active":true'
call "$dashboard" client revoke "$id" --actor "$alice"
check | expect INACTIVE_REASON_REVOKED

echo "--- Upgrades it"
install_deb 2
grep --quiet "^HITKEEP_AUTH_LISTEN=$socket$" "$root/etc/$account/environment" || fail "the configuration is lost"
[[ $(stat --format %a "$root/etc/$account/environment") == 640 ]] || fail "the environment is open"
# The old server goes on until it is told to end.
check | expect INACTIVE_REASON_REVOKED
stop
(as_unit hitkeep-auth-migrate)
start
check | expect INACTIVE_REASON_REVOKED
stop

echo "--- Purges it"
# As systemd does when a service stops.
rm -r "$root/run/$account" "$root/run/credentials"
inside dpkg --purge "$account"
left=$(find "$root" -xdev -path "$root/proc" -prune -o -name '*hitkeep*' -print)
[[ -z $left ]] || fail "it leaves $left"
if inside getent passwd "$account" || inside getent group "$account"; then
    fail "it leaves its user"
fi
if inside dpkg --status "$account" 2>/dev/null; then
    fail "dpkg still knows it"
fi

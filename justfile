# What one does daily. `just` alone lists it: https://just.systems

_list:
    @just --list --unsorted

# Try the service: a private Postgres, demonstration data, and the commands to paste
dev *options:
    cargo run -- dev {{ options }}

# All tests
test *options:
    cargo test {{ options }}

# The tests over the network whose names contain a word
api word='':
    cargo test --test api {{ word }}

# Format everything
fmt:
    cargo fmt

# What the compiler and clippy have to say
lint:
    cargo clippy --all-targets -- -D warnings

# What the documentation, the rooms and the files of deploy/ are held to
tidy:
    cargo test --test tidy

# The documentation of the code, private items included
doc:
    cargo doc --no-deps --document-private-items --open

# One benchmark, such as `just bench introspect --rounds 3`
bench name *options:
    cargo bench --bench {{ name }} -- {{ options }}

# Change the pure core in one place at a time: one of its tests must fail
mutants *options:
    PROPTEST_MAX_SHRINK_ITERS=0 cargo mutants -p hitkeep-auth-domain --output target {{ options }}

# Review new snapshots
snapshots:
    cargo insta review

# All that CI checks
ci:
    .ci/run

# Hold commit messages to CONTRIBUTING.md from now on
hooks:
    git config core.hooksPath .githooks

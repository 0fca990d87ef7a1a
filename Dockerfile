# Builds hitkeep-auth and packs it with nothing but what it runs on.
# Needs BuildKit, which is Docker's default from version 23 on.

# Both stages are Debian 12, so that the binary meets the libc it was linked with.
FROM rust:1.95.0-bookworm AS builder
WORKDIR /build

# What the build reads and no more: a change of a test or a page rebuilds nothing.
COPY Cargo.toml Cargo.lock build.rs ./
COPY .cargo .cargo
COPY proto proto
COPY migrations migrations
COPY src src
COPY crates crates

# Functions keep their names in a backtrace; their lines would be three quarters of
# the binary.
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo

# Downloads and compiled dependencies outlive a build in caches, which are not
# part of the image: the binary has to leave them in the same step. Two builds at
# once would disturb each other there, so the second one waits.
RUN --mount=type=cache,id=hitkeep-auth-registry,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,id=hitkeep-auth-target,target=/build/target,sharing=locked \
    cargo build --release --locked --no-default-features --bin hitkeep-auth \
    && cp target/release/hitkeep-auth /usr/local/bin/hitkeep-auth

# The binary needs libc, libm and libgcc_s. A distroless image has these and is
# smaller; this one also has a shell, with which docker-compose.yml makes a
# service account only where there is none yet.
FROM debian:bookworm-20260824-slim

COPY --from=builder /usr/local/bin/hitkeep-auth /usr/local/bin/hitkeep-auth
# Whom to trust where a collector or Postgres shows a certificate of a public authority.
COPY --from=builder /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt

# By number, so that an orchestrator can tell that it is not root.
USER 65532:65532

# The port has to be open to other containers, not to this one alone. The health
# check reads the same variable: change the address here and not with --listen.
ENV HITKEEP_AUTH_LISTEN=0.0.0.0:50051
# The second one is open where HITKEEP_AUTH_HTTP_LISTEN says so.
EXPOSE 50051 50052

# Says nothing of Postgres: an orchestrator that ends a container that fails it would
# end all of them in an outage in which they still answer.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["hitkeep-auth", "healthcheck", "live"]

# After SIGTERM, it finishes the calls under way: give it 40 s before the kill.
STOPSIGNAL SIGTERM
ENTRYPOINT ["hitkeep-auth"]
CMD ["serve"]

# Last, because they differ from build to build.
ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.title="hitkeep-auth" \
      org.opencontainers.image.description="Issues, manages and introspects HitKeep's API client tokens over gRPC" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

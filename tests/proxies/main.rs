//! Real proxies with the very configuration of `deploy/`, in front of a real upstream
//! and beside a real server; a gRPC library with the service config that is there; and what
//! tests the routes of HitKeep's dashboard by their description. What is not installed is
//! skipped, and says so; where `REQUIRED_PROXIES` names it, as CI does, it has to be there.

#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a test binary has no outside, and its helpers fail as its tests do"
)]

#[path = "../support.rs"]
#[expect(dead_code, reason = "some of it is for other test binaries")]
mod support;

#[path = "../support/service.rs"]
#[expect(dead_code, reason = "some of it is for other test binaries")]
mod service;

mod caddy;
mod envoy;
mod forward_auth;
mod grpc_web;
mod grpcio;
mod nginx;
mod scanners;
mod schemathesis;
mod traefik;

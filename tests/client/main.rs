//! The crate for programs in Rust, and its examples, with the real service.

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

#[path = "../../crates/client/examples/axum_guard.rs"]
#[expect(dead_code, reason = "the example is a program")]
mod axum_guard;
#[path = "../../crates/client/examples/embedded.rs"]
#[expect(dead_code, reason = "the example is a program")]
mod embedded_example;
#[path = "../../crates/client/examples/tonic_guard/main.rs"]
#[expect(dead_code, reason = "the example is a program")]
mod tonic_guard;

mod calls;
mod embedded;
mod grpc;
mod http;
mod modes;
mod vectors;

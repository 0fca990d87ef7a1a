//! The service as its clients see it: every test talks gRPC to a whole server
//! on a database of its own.

#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a test binary has no outside, and its helpers fail as its tests do"
)]

#[path = "../support.rs"]
#[expect(dead_code, reason = "some of it is for other test binaries")]
mod support;

#[path = "../support/dice.rs"]
mod dice;
#[path = "../support/fixtures.rs"]
mod fixtures;
#[path = "../support/harness.rs"]
mod harness;

mod blocked;
mod raw;

mod ages;
mod audit;
mod bad_input;
mod batch;
mod both_ways;
mod callers;
mod cancel;
mod census;
mod classes;
mod concurrency;
mod create;
mod directory;
mod errors;
mod events;
mod floods;
mod frames;
mod fresh;
mod get_list;
mod health;
mod http;
mod incident;
mod index_status;
mod introspect;
mod layers;
mod legacy;
mod list_all;
mod listeners;
mod outage;
mod patience;
mod protocol;
mod replay;
mod restrictions;
mod revoke_delete;
mod rotate;
mod scrambled;
mod secrets;
mod shutdown;
mod sidecars;
mod stream;
mod telemetry;
mod update;
mod usage;

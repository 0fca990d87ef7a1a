//! What the test binaries share.

#[path = "support/by_hand.rs"]
pub mod by_hand;
#[path = "support/certificates.rs"]
pub mod certificates;
#[path = "support/doubles.rs"]
pub mod doubles;
#[path = "support/envoy.rs"]
pub mod envoy;
#[path = "support/paths.rs"]
pub mod paths;
#[path = "support/postgres.rs"]
pub mod postgres;
#[path = "support/process.rs"]
pub mod process;
#[path = "support/programs.rs"]
pub mod programs;
#[path = "support/proxy.rs"]
pub mod proxy;
#[path = "support/upstream.rs"]
pub mod upstream;
#[path = "support/vectors.rs"]
pub mod vectors;
#[path = "support/waiting.rs"]
pub mod waiting;
#[path = "support/webhook.rs"]
pub mod webhook;

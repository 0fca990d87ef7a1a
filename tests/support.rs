//! What the test binaries share.

#[path = "support/certificates.rs"]
pub mod certificates;
#[path = "support/doubles.rs"]
pub mod doubles;
#[path = "support/paths.rs"]
pub mod paths;
#[path = "support/postgres.rs"]
pub mod postgres;
#[path = "support/process.rs"]
pub mod process;
#[path = "support/proxy.rs"]
pub mod proxy;
#[path = "support/waiting.rs"]
pub mod waiting;

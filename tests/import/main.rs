//! Imports from HitKeep: of snapshots that DuckDB itself wrote, of random histories, and of
//! files that are broken.

#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "../support/dice.rs"]
mod dice;
#[path = "../support/folder.rs"]
#[expect(dead_code, reason = "some of it is for other test binaries")]
mod folder;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/process.rs"]
#[expect(dead_code, reason = "some of it is for other test binaries")]
mod process;
#[path = "../support/pty.rs"]
#[expect(dead_code, reason = "some of it is for other test binaries")]
mod pty;

mod database;
mod duckdb;
mod hitkeep;

mod deltas;
mod golden;
mod histories;
mod page;
mod served;
mod stored;
mod terminal;

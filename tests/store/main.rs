//! What the service relies on Postgres for: the migrations, the constraints and
//! indexes that they make, and the store on top of them.

#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "../support/certificates.rs"]
mod certificates;
#[path = "../support/dice.rs"]
#[expect(dead_code, reason = "some of it is for other test binaries")]
mod dice;
#[path = "../support/empty.rs"]
mod empty;
#[path = "../support/folder.rs"]
#[expect(dead_code, reason = "some of it is for other test binaries")]
mod folder;
#[path = "../support/passwords.rs"]
mod passwords;
#[path = "../support/paths.rs"]
mod paths;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/verdict.rs"]
mod verdict;

use hitkeep_auth::domain;

mod by_hand;
mod database;

mod changes;
mod constraints;
mod encryption;
mod feed;
mod following;
mod foreign_keys;
mod inconsistent;
mod migrations;
mod outbox;
mod plans;
mod reload;
mod replays;
mod replicated;
mod revision;
mod schema;
mod search_path;
mod usage;

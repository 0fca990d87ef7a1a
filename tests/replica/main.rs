//! Several servers on one database, replicas of them, and programs that hold the index: what
//! each of them answers is what the database says, whatever happens to connections,
//! notifications, processes, backups, and to Postgres itself.

#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a test binary has no outside, and its helpers fail as its tests do"
)]

#[path = "../support.rs"]
#[expect(dead_code, reason = "some of it is for other test binaries")]
mod support;

#[path = "../support/fixtures.rs"]
#[expect(dead_code, reason = "some of it is for other test binaries")]
mod fixtures;
#[path = "../support/harness.rs"]
#[expect(dead_code, reason = "some of it is for other test binaries")]
mod harness;

#[path = "../support/dice.rs"]
mod dice;
#[path = "../support/nodes.rs"]
mod nodes;
#[path = "../support/verdict.rs"]
mod verdict;

mod asker;
mod backup;
mod changes;
mod checker;
mod cluster;
mod everything;
mod follower;
mod frames;
mod gateway;
mod index;
mod steps;
mod time;

use hitkeep_auth::domain;
use support::waiting;

mod cut;
mod embedded_go;
mod failover;
mod killed;
mod lost;
mod moved;
mod names;
mod notifications;
mod order;
mod pooler;
mod primary;
mod proxy;
mod race;
mod random;
mod replication;
mod restored;
mod shortage;
mod stale;
mod subscribed;

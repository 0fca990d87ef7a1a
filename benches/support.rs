//! What the benchmarks share: a Postgres to throw away, the release binary as a
//! child process, a database full of clients, and figures for people.

#![expect(dead_code, reason = "no benchmark needs all of it")]

#[path = "support/arguments.rs"]
pub mod arguments;
#[path = "support/build.rs"]
pub mod build;
#[path = "support/calls.rs"]
pub mod calls;
#[path = "support/chance.rs"]
pub mod chance;
#[path = "support/comparison.rs"]
pub mod comparison;
#[path = "support/cores.rs"]
pub mod cores;
#[path = "../tests/support/dice.rs"]
pub mod dice;
#[path = "support/distance.rs"]
pub mod distance;
#[path = "support/figures.rs"]
pub mod figures;
#[path = "support/filled.rs"]
pub mod filled;
#[path = "../tests/support/folder.rs"]
pub mod folder;
#[path = "support/load.rs"]
pub mod load;
#[path = "../tests/support/paths.rs"]
pub mod paths;
#[path = "support/population.rs"]
pub mod population;
#[path = "support/postgres.rs"]
pub mod postgres;
#[path = "support/saturation.rs"]
pub mod saturation;
#[path = "support/service.rs"]
pub mod service;

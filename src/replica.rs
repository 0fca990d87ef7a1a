//! What a replica keeps in memory, so that an answer never waits for Postgres.

pub mod usage;

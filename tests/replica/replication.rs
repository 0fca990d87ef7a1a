//! Replicas without a database: whatever happens between them and the servers that they
//! follow, they say what these say, or that they cannot tell.

mod answers;
mod doors;
mod faults;
mod protocol;
mod restricted;
pub mod spoken;
pub mod turns;
mod uses;

//! Everything on one machine with nothing set up: a private Postgres, and a
//! demonstration in it.

pub mod demo;
mod folders;
mod install;
pub mod postgres;
mod programs;
pub mod users;

//! A Postgres of one's own, with nothing set up: found on this machine or installed with pip,
//! started in a folder of its own as an unprivileged user, and stopped with its owner.
//!
//! `hitkeep-auth dev` and the tests use it. It is a crate of its own so that what serves in
//! production neither contains an installer nor any unsafe code.

mod error;
mod folders;
mod install;
mod options;
pub mod postgres;
mod programs;
pub mod user_folders;
mod users;

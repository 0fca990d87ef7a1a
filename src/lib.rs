//! hitkeep-auth issues, manages and introspects HitKeep's API tokens over gRPC.
//! README.md shows how to run it, docs/ARCHITECTURE.md why it is built as it is.
//!
//! The rooms, in reading order: [`domain`] is the rules, pure; [`store`] keeps
//! everything in Postgres, and has the one way to write; [`replica`] is what a
//! process keeps in memory; [`grpc`] is the services, and `http` what there is for
//! those who speak no gRPC; [`server`] puts them behind their layers and serves
//! them. [`dev`] is a private Postgres with a demonstration; [`config`] and [`cli`]
//! are the command line. [`pb`] is generated, [`system`] and [`telemetry`] are the
//! machine's clock and randomness, logs and metrics.

pub mod cli;
pub mod config;
pub mod dev;
pub mod domain;
pub mod grpc;
mod http;
pub mod pb;
pub mod replica;
pub mod server;
pub mod store;
pub mod system;
pub mod telemetry;

//! hitkeep-auth issues, manages and introspects HitKeep's API tokens over gRPC.
//! README.md shows how to run it, docs/ARCHITECTURE.md why it is built as it is.
//!
//! The rooms, in reading order: [`domain`] is the rules, pure; [`proxy_auth`] applies them
//! to what proxies ask; [`store`] keeps everything in Postgres, and has the one way to
//! write; [`import`] takes clients over from HitKeep; [`live_index`] is the index that a
//! process answers from; [`events`] delivers what happens to a webhook; [`grpc`] is the
//! services, and `http` the endpoints for clients without gRPC; [`upstream`] follows another
//! server's index where there is no database; [`transport`] is connections, `calls` what
//! every call has, [`fastpath`] what answers introspections before any layer; [`server`]
//! assembles them. [`dev`] is a private Postgres with a demonstration; [`config`] and
//! [`cli`] are the command line. [`pb`] is generated, [`system`] and [`telemetry`] are the
//! machine's clock and randomness, logs and metrics.

#![forbid(unsafe_code)]

mod calls;
pub mod cli;
pub mod config;
#[cfg(feature = "dev")]
pub mod dev;
pub mod events;
pub mod fastpath;
pub mod grpc;
mod http;
pub mod import;
pub mod live_index;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod transport;
pub mod upstream;

pub use hitkeep_auth_client as client;
pub use hitkeep_auth_client::system;
pub use hitkeep_auth_domain::{self as domain, proxy_auth};
pub use hitkeep_auth_proto as pb;

//! Limits of connections: number and age.

use std::time::Duration;

use clap::Args;

use super::values::{at_least_one, non_zero_duration};
use crate::{server, transport::activity::IdleTimeouts};

#[derive(Debug, Args)]
pub(super) struct ConnectionArgs {
    /// Connection limit of each listener; connections beyond it are closed. The limit of open files must allow it
    #[arg(long, env = "HITKEEP_AUTH_MAX_CONNECTIONS", default_value_t = 10_000, value_parser = at_least_one, value_name = "N")]
    max_connections: usize,
    /// Age at which connections are asked to reconnect, 10% more or less; 0s turns that off
    #[arg(long, env = "HITKEEP_AUTH_MAX_CONNECTION_AGE", default_value = "30m", value_parser = humantime::parse_duration, value_name = "TIME")]
    max_connection_age: Duration,
    /// How long streams may go on after that before they are ended
    #[arg(long, env = "HITKEEP_AUTH_MAX_CONNECTION_AGE_GRACE", default_value = "1m", value_parser = non_zero_duration, value_name = "TIME")]
    max_connection_age_grace: Duration,
}

impl ConnectionArgs {
    /// Sets the limits in the server's options.
    pub(super) fn set(&self, server: server::Options) -> server::Options {
        let age = self.max_connection_age;
        server::Options {
            max_connections: self.max_connections,
            max_connection_age: Some(age).filter(|age| !age.is_zero()),
            idle_timeouts: IdleTimeouts {
                grace: self.max_connection_age_grace,
                ..server.idle_timeouts
            },
            ..server
        }
    }
}

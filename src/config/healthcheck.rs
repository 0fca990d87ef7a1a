//! Options of `healthcheck`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{LISTEN, OutputArgs, values::non_zero_duration};
use crate::transport::listeners::Address;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Probe {
    /// Whether the process works, whatever the state of Postgres: for a supervisor that restarts it
    Live,
    /// Whether it can introspect: for a load balancer, or a program that waits for it
    #[default]
    Ready,
}

#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// What to check
    #[arg(value_enum, default_value_t)]
    pub probe: Probe,
    /// Address of the server, as given to its --listen; of several, the first is used
    #[arg(long, env = "HITKEEP_AUTH_LISTEN", default_value = LISTEN, value_delimiter = ',', value_name = "ADDRESS")]
    listen: Vec<Address>,
    /// Set if the server uses TLS; the file itself is not read, and no certificate is verified
    #[arg(long, env = "HITKEEP_AUTH_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// How long to wait for an answer
    #[arg(long, env = "HITKEEP_AUTH_HEALTHCHECK_TIMEOUT", default_value = "3s", value_parser = non_zero_duration, value_name = "TIME")]
    pub timeout: Duration,
    #[command(flatten)]
    pub output: OutputArgs,
}

impl Probe {
    /// Its word on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Ready => "ready",
        }
    }
}

impl HealthcheckArgs {
    /// The first of the server's addresses.
    pub fn address(&self) -> &Address {
        self.listen.first().expect("there is a default")
    }

    /// Whether the server uses TLS for TCP.
    pub fn is_encrypted(&self) -> bool {
        self.tls_cert.is_some()
    }
}

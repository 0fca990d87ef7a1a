//! Options of `replica`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;

use super::{
    SecretError,
    secrets::SecretFile,
    serving::{GrpcWebArgsError, ServingArgs},
    values::{at_least_ten_milliseconds, boolean},
};
use crate::{
    domain::token::{Token, TokenKind},
    server,
    upstream::{Authorities, BadTarget, Certificates, NoToken, Target, TokenSource, Upstream},
};

#[derive(Args)]
pub struct ReplicaArgs {
    /// Servers to follow, as `http://HOST:PORT`, `https://HOST:PORT` or unix:PATH, separated by commas;
    /// one at a time, and the next one if it fails
    #[arg(
        long,
        env = "HITKEEP_AUTH_UPSTREAM",
        required = true,
        value_delimiter = ',',
        hide_env_values = true,
        value_name = "URL"
    )]
    upstream: Vec<String>,
    /// Token of a service account with the permission replicate; other users of the machine see
    /// options, and not the environment
    #[arg(
        long,
        env = "HITKEEP_AUTH_UPSTREAM_TOKEN",
        hide_env_values = true,
        conflicts_with = "upstream_token_file",
        value_name = "TOKEN"
    )]
    upstream_token: Option<String>,
    /// File that holds the token and nothing else; read again for each connection
    #[arg(long, env = "HITKEEP_AUTH_UPSTREAM_TOKEN_FILE", value_name = "FILE")]
    upstream_token_file: Option<PathBuf>,
    /// CA certificates that sign the servers' (PEM) [default: those of the system]
    #[arg(long, env = "HITKEEP_AUTH_UPSTREAM_CA", value_name = "FILE")]
    upstream_ca: Option<PathBuf>,
    /// Client certificate to show to the servers (PEM), instead of a token or beside it
    #[arg(
        long,
        env = "HITKEEP_AUTH_UPSTREAM_CERT",
        requires = "upstream_key",
        value_name = "FILE"
    )]
    upstream_cert: Option<PathBuf>,
    /// Private key of the client certificate (PEM, unencrypted)
    #[arg(
        long,
        env = "HITKEEP_AUTH_UPSTREAM_KEY",
        requires = "upstream_cert",
        value_name = "FILE"
    )]
    upstream_key: Option<PathBuf>,
    /// Leave the names of API clients with the servers: answers have none
    #[arg(long, env = "HITKEEP_AUTH_WITHOUT_NAMES", value_parser = boolean)]
    without_names: bool,
    /// How often to ask how fresh the index is; at least 10ms
    #[arg(long, env = "HITKEEP_AUTH_POLL_INTERVAL", default_value = "250ms", value_parser = at_least_ten_milliseconds, value_name = "TIME")]
    poll_interval: Duration,
    /// How many times a second to ask because of unknown tokens; 1 to 1000
    #[arg(long, env = "HITKEEP_AUTH_MAX_LOOKUPS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    max_lookups: u32,
    /// The options of every process that answers.
    #[command(flatten)]
    pub serving: ServingArgs,
}

impl std::fmt::Debug for ReplicaArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // One of them is a token.
        f.write_str("ReplicaArgs")
    }
}

/// Options about the servers upstream that cannot be used. No text of an option is repeated,
/// since it may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("--upstream {0}")]
    Target(BadTarget),
    #[error(
        "--upstream {}: the token belongs in HITKEEP_AUTH_UPSTREAM_TOKEN or in a file",
        BadTarget::Credentials
    )]
    Credentials,
    /// Nothing says who this process is.
    #[error(
        "set HITKEEP_AUTH_UPSTREAM_TOKEN or --upstream-token-file to the token of a service \
         account with the permission replicate, or give --upstream-cert"
    )]
    NoCredentials,
    /// The token is none of a service account.
    #[error("the token for the server upstream is not the token of a service account (hks_…)")]
    NotAToken,
    #[error("--upstream-token-file: {0}")]
    File(SecretError),
    #[error(
        "--upstream-ca and --upstream-cert need every --upstream over TCP to begin with https://"
    )]
    NotEncrypted,
}

impl ReplicaArgs {
    /// The servers upstream.
    ///
    /// # Errors
    /// If options are missing or cannot be used.
    pub fn upstream(&self) -> Result<Upstream, UpstreamError> {
        let targets = self.upstream.iter().map(|text| text.parse());
        let targets = targets.collect::<Result<Vec<Target>, _>>();
        let targets = targets.map_err(|error| match error {
            BadTarget::Form => UpstreamError::Target(error),
            BadTarget::Credentials => UpstreamError::Credentials,
        })?;
        let identity = self.upstream_cert.clone().zip(self.upstream_key.clone());
        let needs_encryption = identity.is_some() || self.upstream_ca.is_some();
        let is_encrypted =
            targets.iter().any(Target::is_encrypted) && !targets.iter().any(Target::is_readable);
        if needs_encryption && !is_encrypted {
            return Err(UpstreamError::NotEncrypted);
        }
        let token = match (&self.upstream_token, &self.upstream_token_file) {
            (Some(token), _) => {
                let token = checked(token.clone())?;
                TokenSource::new(move || Ok(Some(token.clone())))
            }
            (None, Some(file)) => {
                let file = SecretFile::new(file.clone());
                // A mistake ends the command before anything is served.
                read(&file)?;
                TokenSource::new(move || match read(&file) {
                    Ok(token) => Ok(Some(token)),
                    Err(error) => Err(NoToken(error.to_string())),
                })
            }
            (None, None) if identity.is_some() => TokenSource::new(|| Ok(None)),
            (None, None) => return Err(UpstreamError::NoCredentials),
        };
        Ok(Upstream {
            targets,
            token,
            certificates: Arc::new(Certificates {
                authorities: self
                    .upstream_ca
                    .clone()
                    .map_or(Authorities::System, Authorities::File),
                identity,
            }),
            without_names: self.without_names,
        })
    }

    /// The options of the server.
    ///
    /// # Errors
    /// If an option is missing that another one needs.
    pub fn server(&self) -> Result<server::Options, GrpcWebArgsError> {
        let mut options = self.serving.server()?;
        options.index.poll_interval = self.poll_interval;
        options.index.max_lookups = self.max_lookups;
        Ok(options)
    }
}

fn read(file: &SecretFile) -> Result<String, UpstreamError> {
    checked(file.read().map_err(UpstreamError::File)?)
}

fn checked(token: String) -> Result<String, UpstreamError> {
    match Token::parse(&token) {
        Ok(parsed) if parsed.kind() == TokenKind::ServiceAccount => Ok(token),
        _ => Err(UpstreamError::NotAToken),
    }
}

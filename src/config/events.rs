//! Options of the webhook that events are delivered to.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{SecretError, secrets::SecretFile, values::boolean};
use crate::events::{
    BadEndpoint, BadSecret, Endpoint, NoSecret, PlainHttp, SecretSource, SigningKeys, Webhook,
};

/// The variable with the secrets. It is no option, since a command line can be read by every
/// user of the machine.
const SECRET: &str = "HITKEEP_AUTH_EVENTS_WEBHOOK_SECRET";

#[derive(Clone, Debug, Args)]
pub struct EventsArgs {
    /// URL to deliver events about API clients to, as signed `CloudEvents` [default: none]
    #[arg(
        long,
        env = "HITKEEP_AUTH_EVENTS_WEBHOOK",
        hide_env_values = true,
        conflicts_with = "events_webhook_file",
        value_name = "URL"
    )]
    events_webhook: Option<String>,
    /// File that holds that URL and nothing else, instead of --events-webhook
    #[arg(long, env = "HITKEEP_AUTH_EVENTS_WEBHOOK_FILE", value_name = "FILE")]
    events_webhook_file: Option<PathBuf>,
    /// File that holds the secrets to sign events with (`whsec_…`), one a line, and nothing
    /// else; read again if it is replaced [default: the secrets in the variable
    /// `HITKEEP_AUTH_EVENTS_WEBHOOK_SECRET`]
    #[arg(
        long,
        env = "HITKEEP_AUTH_EVENTS_WEBHOOK_SECRET_FILE",
        value_name = "FILE"
    )]
    events_webhook_secret_file: Option<PathBuf>,
    /// CA certificates that sign the receiver's (PEM) [default: those of the system]
    #[arg(long, env = "HITKEEP_AUTH_EVENTS_WEBHOOK_CA", value_name = "FILE")]
    events_webhook_ca: Option<PathBuf>,
    /// Deliver to another machine over http:// too: who is in between reads the events
    #[arg(long, env = "HITKEEP_AUTH_EVENTS_WEBHOOK_ALLOW_HTTP", value_parser = boolean)]
    events_webhook_allow_http: bool,
}

/// Options about the webhook that cannot be used. No text of an option is repeated, since it
/// may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    #[error("--events-webhook {0}")]
    Endpoint(BadEndpoint),
    #[error("--events-webhook-file: {0}")]
    UrlFile(SecretError),
    #[error("--events-webhook-file: the content of {} {why}", path.display())]
    EndpointInFile { path: PathBuf, why: BadEndpoint },
    #[error(
        "--events-webhook needs a secret to sign with: set {SECRET}, or give a file with \
         --events-webhook-secret-file"
    )]
    NoSecret,
    #[error("{SECRET} cannot be used: {0}")]
    Variable(BadSecret),
    #[error("--events-webhook-secret-file: {0}")]
    File(SecretError),
    #[error("--events-webhook-secret-file: {} cannot be used: {why}", path.display())]
    InFile { path: PathBuf, why: BadSecret },
    #[error("--events-webhook-ca needs an --events-webhook that begins with https://")]
    NotEncrypted,
    /// Something about a webhook that is missing.
    #[error("{0} needs --events-webhook")]
    NoWebhook(&'static str),
}

impl EventsArgs {
    /// Whether any of its options is given.
    pub fn has_any(&self) -> bool {
        self.events_webhook.is_some()
            || self.events_webhook_file.is_some()
            || self.events_webhook_secret_file.is_some()
            || self.events_webhook_ca.is_some()
    }

    /// The files with secrets, each with its option.
    pub fn secret_files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let url = self.events_webhook_file.as_deref();
        let url = url.map(|path| ("--events-webhook-file", path));
        let secrets = self.events_webhook_secret_file.as_deref();
        let secrets = secrets.map(|path| ("--events-webhook-secret-file", path));
        url.into_iter().chain(secrets)
    }

    /// The webhook, if there is one. Blocks on the file system.
    ///
    /// # Errors
    /// If options are missing or cannot be used.
    pub fn webhook(&self) -> Result<Option<Webhook>, EventsError> {
        let Some(endpoint) = self.endpoint()? else {
            return match (&self.events_webhook_secret_file, &self.events_webhook_ca) {
                (Some(_), _) => Err(EventsError::NoWebhook("--events-webhook-secret-file")),
                (None, Some(_)) => Err(EventsError::NoWebhook("--events-webhook-ca")),
                (None, None) => Ok(None),
            };
        };
        if self.events_webhook_ca.is_some() && !endpoint.is_encrypted() {
            return Err(EventsError::NotEncrypted);
        }
        Ok(Some(Webhook {
            endpoint,
            secrets: self.secrets()?,
            authorities: self.events_webhook_ca.clone(),
        }))
    }

    /// Where events are delivered to, if they are.
    fn endpoint(&self) -> Result<Option<Endpoint>, EventsError> {
        let plain = if self.events_webhook_allow_http {
            PlainHttp::Anywhere
        } else {
            PlainHttp::Loopback
        };
        if let Some(url) = &self.events_webhook {
            let endpoint = Endpoint::parse(url, plain);
            return endpoint.map(Some).map_err(EventsError::Endpoint);
        }
        let Some(path) = self.events_webhook_file.clone() else {
            return Ok(None);
        };
        let url = SecretFile::new(path.clone()).read();
        let url = url.map_err(EventsError::UrlFile)?;
        let endpoint = Endpoint::parse(&url, plain);
        endpoint
            .map(Some)
            .map_err(|why| EventsError::EndpointInFile { path, why })
    }

    fn secrets(&self) -> Result<SecretSource, EventsError> {
        if let Some(path) = self.events_webhook_secret_file.clone() {
            let file = SecretFile::new(path);
            // A mistake ends the command before anything is served.
            read(&file)?;
            let read = move || read(&file).map_err(|error| NoSecret(error.to_string()));
            return Ok(SecretSource::new(read));
        }
        let given = std::env::var_os(SECRET).unwrap_or_default();
        let keys = SigningKeys::parse(&given.to_string_lossy());
        let keys = keys.map_err(|why| match why {
            BadSecret::Empty => EventsError::NoSecret,
            why => EventsError::Variable(why),
        })?;
        Ok(SecretSource::new(move || Ok(keys.clone())))
    }
}

fn read(file: &SecretFile) -> Result<SigningKeys, EventsError> {
    let text = file.read().map_err(EventsError::File)?;
    SigningKeys::parse(&text).map_err(|why| EventsError::InFile {
        path: file.path().to_owned(),
        why,
    })
}

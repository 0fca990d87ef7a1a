//! Connections to a server upstream.

use std::{fmt, sync::Arc};

use hitkeep_auth_proto::replication_service_client::ReplicationServiceClient;
use tokio::{sync::watch, task::spawn_blocking, time::timeout};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use super::{Limits, Upstream};
use crate::{
    connect::{Destination, Timeouts},
    error::causes,
    target::Target,
};

/// There is no usable token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no token for the server upstream: {0}")]
pub struct NoToken(pub String);

/// Reads the token for each connection, so that a replaced file is used for the next one.
/// `None` if the certificate alone authenticates. Reading blocks.
#[derive(Clone)]
pub struct TokenSource(Arc<dyn Fn() -> Result<Option<String>, NoToken> + Send + Sync>);

impl TokenSource {
    /// A source that reads the token when it is called.
    pub fn new(read: impl Fn() -> Result<Option<String>, NoToken> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSource")
    }
}

/// Why there is no connection, or why it ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The server does not accept connections.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("it did not accept a connection in time")]
    Late,
    /// What is needed for that is missing here.
    #[error("{0}")]
    Local(String),
}

/// Adds the token to each call.
#[derive(Clone)]
pub(super) struct WithToken(Option<MetadataValue<Ascii>>);

impl Interceptor for WithToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

pub(super) type Client = ReplicationServiceClient<InterceptedService<Channel, WithToken>>;

/// The largest message from a server: a part has a few KiB, or all service accounts, or one client
/// with many tokens.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// The connection that is in use, if there is one, for those who have something to report.
#[derive(Debug, Default)]
pub struct Link(watch::Sender<Option<Client>>);

impl Link {
    pub(super) fn set(&self, client: Option<Client>) {
        self.0.send_replace(client);
    }

    pub(super) fn get(&self) -> Option<Client> {
        self.0.borrow().clone()
    }

    /// Waits until there is a connection.
    pub(super) async fn connected(&self) -> Client {
        let mut connected = self.0.subscribe();
        let found = connected.wait_for(Option::is_some).await;
        let found = found.expect("the sender lives as long as self").clone();
        found.expect("it was waited for")
    }
}

/// Connects to a server.
pub(super) async fn connect(
    upstream: &Upstream,
    target: &Target,
    limits: &Limits,
) -> Result<Client, ConnectError> {
    let source = upstream.token.clone();
    // It is read again for each connection.
    let token = spawn_blocking(move || read(&source));
    let token = token.await.expect("it neither panics nor is aborted")?;
    let destination = Destination {
        target: target.clone(),
        certificates: Arc::clone(&upstream.certificates),
        timeouts: Timeouts {
            connect: limits.connect,
            ping_interval: limits.ping,
            ping: limits.ping,
        },
    };
    match timeout(limits.connect, destination.connect()).await {
        Ok(Ok(channel)) => {
            let client = ReplicationServiceClient::with_interceptor(channel, WithToken(token));
            Ok(client.max_decoding_message_size(MAX_MESSAGE_BYTES))
        }
        Ok(Err(error)) => Err(ConnectError::Unreachable(causes(&error))),
        Err(_) => Err(ConnectError::Late),
    }
}

/// Reads the token.
fn read(source: &TokenSource) -> Result<Option<MetadataValue<Ascii>>, ConnectError> {
    let token = (source.0)().map_err(|error| ConnectError::Local(error.to_string()))?;
    let Some(token) = token else {
        return Ok(None);
    };
    let value = format!("Bearer {token}").parse();
    let mut value: MetadataValue<Ascii> = value.or(Err(ConnectError::Local(
        "the token for the server upstream has other characters than a token".to_owned(),
    )))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

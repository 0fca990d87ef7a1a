//! Connections to a server upstream.

use std::{fmt, io, sync::Arc};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::watch,
    task::spawn_blocking,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use super::{Limits, Target, Upstream};
use crate::{pb::replication_service_client::ReplicationServiceClient, store::error::causes};

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

/// The largest message from a server: a part has 64 KiB, and one client with its tokens.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// How much of a snapshot is on the way at a time: with less, a long way would make it slow.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// The connection that is in use, if there is one, for those who have something to report.
#[derive(Default)]
pub(super) struct Link(watch::Sender<Option<Client>>);

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
    upstream: &Arc<Upstream>,
    target: &Target,
    limits: &Limits,
) -> Result<Client, ConnectError> {
    let prepared = {
        let (upstream, target) = (Arc::clone(upstream), target.clone());
        // Files are read again for each connection.
        spawn_blocking(move || prepare(&upstream, &target)).await
    };
    let (token, tls) = prepared.expect("it neither panics nor is aborted")?;
    // The connector does all that the scheme would ask for.
    let endpoint = Endpoint::from_static("http://localhost")
        .origin(target.origin())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * 2)
        .http2_keep_alive_interval(limits.ping)
        .keep_alive_timeout(limits.ping)
        .keep_alive_while_idle(true);
    let to = target.clone();
    let connecting = endpoint.connect_with_connector(tower::service_fn(move |_: http::Uri| {
        let (to, tls) = (to.clone(), tls.clone());
        async move { open(&to, tls).await.map(TokioIo::new) }
    }));
    match timeout(limits.connect, connecting).await {
        Ok(Ok(channel)) => {
            let client = ReplicationServiceClient::with_interceptor(channel, WithToken(token));
            Ok(client.max_decoding_message_size(MAX_MESSAGE_BYTES))
        }
        Ok(Err(error)) => Err(ConnectError::Unreachable(causes(&error))),
        Err(_) => Err(ConnectError::Late),
    }
}

type Prepared = (Option<MetadataValue<Ascii>>, Option<TlsConnector>);

/// Reads the token and the certificates.
fn prepare(upstream: &Upstream, target: &Target) -> Result<Prepared, ConnectError> {
    let local = |error: &dyn fmt::Display| ConnectError::Local(error.to_string());
    let token = (upstream.token.0)().map_err(|error| local(&error))?;
    let token = token.map(|token| {
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().or(Err(local(
            &"the token for the server upstream has other characters than a token",
        )))?;
        value.set_sensitive(true);
        Ok::<_, ConnectError>(value)
    });
    let tls = target.is_encrypted().then(|| {
        let config = upstream.certificates.client_config();
        let mut config = config.map_err(|error| {
            let causes = causes(&error);
            local(&format_args!("{error}: {causes}"))
        })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok::<_, ConnectError>(TlsConnector::from(Arc::new(config)))
    });
    Ok((token.transpose()?, tls.transpose()?))
}

/// A TCP or Unix connection.
trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

async fn open(target: &Target, tls: Option<TlsConnector>) -> io::Result<Box<dyn Connection>> {
    let (host, port) = match target {
        Target::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
        Target::Tcp { host, port, .. } => (host, *port),
    };
    let connection = TcpStream::connect((host.as_str(), port)).await?;
    connection.set_nodelay(true)?;
    let Some(tls) = tls else {
        return Ok(Box::new(connection));
    };
    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
    Ok(Box::new(tls.connect(name, connection).await?))
}

//! Connections to a server: over TCP with or without TLS, or over a Unix socket.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task::spawn_blocking,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Error};

use crate::{target::Target, tls::Certificates};

/// Timeouts of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// Of connecting, with TLS.
    pub(crate) connect: Duration,
    /// Between two pings of HTTP/2.
    pub(crate) ping_interval: Duration,
    /// From a ping to its answer.
    pub(crate) ping: Duration,
}

/// How much of a stream is on the way at a time: with less, a long way would make it slow.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// Where to connect, and how.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    pub(crate) target: Target,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) timeouts: Timeouts,
}

/// A TCP or Unix connection.
trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

impl Destination {
    /// Connects when there is something to send, and again whenever the connection is lost.
    pub(crate) fn connect_lazily(self) -> Channel {
        let endpoint = self.endpoint();
        endpoint.connect_with_connector_lazy(self.connector())
    }

    /// Connects now.
    pub(crate) async fn connect(self) -> Result<Channel, Error> {
        let endpoint = self.endpoint();
        endpoint.connect_with_connector(self.connector()).await
    }

    fn endpoint(&self) -> Endpoint {
        // The connector does all that the scheme would ask for.
        Endpoint::from_static("http://localhost")
            .origin(self.target.origin())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * 2)
            .http2_keep_alive_interval(self.timeouts.ping_interval)
            .keep_alive_timeout(self.timeouts.ping)
            .keep_alive_while_idle(true)
    }

    fn connector(
        self,
    ) -> impl tower::Service<
        http::Uri,
        Response = TokioIo<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>,
        Error = io::Error,
        Future: Send,
    > + Send
    + 'static {
        tower::service_fn(move |_: http::Uri| {
            let to = self.clone();
            async move {
                let late = |_| {
                    let why = "it did not accept a connection in time";
                    io::Error::new(io::ErrorKind::TimedOut, why)
                };
                let opened = timeout(to.timeouts.connect, to.open()).await;
                opened.map_err(late)?.map(TokioIo::new)
            }
        })
    }

    async fn open(&self) -> io::Result<Box<dyn Connection>> {
        let (host, port) = match &self.target {
            Target::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            Target::Tcp { host, port, .. } => (host, *port),
        };
        let tls = if self.target.is_encrypted() {
            Some(self.tls().await?)
        } else {
            None
        };
        let connection = TcpStream::connect((host.as_str(), port)).await?;
        connection.set_nodelay(true)?;
        let Some(tls) = tls else {
            return Ok(Box::new(connection));
        };
        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
        Ok(Box::new(tls.connect(name, connection).await?))
    }

    /// Files are read again for each connection.
    async fn tls(&self) -> io::Result<TlsConnector> {
        let certificates = Arc::clone(&self.certificates);
        let read = spawn_blocking(move || certificates.client_config());
        let read = read.await.map_err(io::Error::other)?;
        let mut config = read.map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

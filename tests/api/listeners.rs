//! Listeners as they are in production: TCP and Unix sockets, with TLS and without.

use std::{os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use hitkeep_auth::{
    domain::caller::CallerPermission::Introspect,
    server::{self, Ended, Server},
    telemetry::{metrics::Metrics, traces::Sampling},
    transport::{
        listeners::{Address, ListenError, Listeners},
        tls::Tls,
    },
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::DuplexStream,
    net::{TcpStream, UnixListener, UnixStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Error};

use crate::{
    fixtures::*,
    harness::{Caller, TestApp, patient},
    support::{
        certificates::{Authority, Identity},
        folder::{Folder, text},
        waiting::{until, wanted},
    },
};

mod certificates;
mod families;
mod limits;
mod reload;
mod tls;

/// A server on the database of a [`TestApp`], with the same callers.
pub struct Listening {
    pub app: TestApp,
    pub addresses: Vec<Address>,
    pub stop: mpsc::Sender<()>,
    pub server: JoinHandle<Ended>,
}

impl Listening {
    /// Opens those addresses.
    pub async fn on(addresses: &[&str], tls: Option<&Tls>) -> Self {
        Self::set_to(server::Options::default(), addresses, tls).await
    }

    /// The same, set to something else than usual.
    pub async fn set_to(options: server::Options, addresses: &[&str], tls: Option<&Tls>) -> Self {
        let (app, options) = (TestApp::start().await, patient(options));
        let addresses: Vec<_> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let listeners = Listeners::open(&addresses, tls).await.unwrap();
        let addresses = listeners.addresses().unwrap();
        let (stop, mut stopped) = mpsc::channel(2);
        let metrics = Metrics::default();
        let server = Server {
            backend: app.store.clone().into(),
            options,
            metrics: metrics.clone(),
            sampling: Sampling::default(),
            grpc: listeners.incoming(),
            http: tokio_stream::empty::<std::io::Result<DuplexStream>>(),
        };
        let server = tokio::spawn(async move { server.run(&mut stopped).await });
        // Until then an unknown token may wait in vain, where the machine is slow.
        until("the index is loaded", async || {
            let page = metrics.page().expect("there are metrics");
            wanted(page.contains("hitkeep_auth_index_ready 1\n"))
        })
        .await;
        Self {
            app,
            addresses,
            stop,
            server,
        }
    }

    /// One with that TLS, on one address.
    pub async fn with(tls: &Tls) -> Self {
        Self::on(&["127.0.0.1:0"], Some(tls)).await
    }

    pub async fn socket(&self) -> TcpStream {
        self.try_socket().await.unwrap()
    }

    pub async fn try_socket(&self) -> std::io::Result<TcpStream> {
        let Address::Tcp(address) = &self.addresses[0] else {
            panic!("the first one is of TCP");
        };
        TcpStream::connect(address).await
    }

    /// A connection over TLS.
    pub async fn channel(&self, config: ClientConfig) -> Result<Channel, Error> {
        let socket = self.socket().await;
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("auth.example").unwrap();
        let connect = async move { connector.connect(name, socket).await.map(TokioIo::new) };
        through(connect).await
    }

    /// A caller that introspects, with its token.
    pub fn caller(&self, channel: Channel) -> Caller {
        let authorization = format!("Bearer {}", self.app.token(Introspect));
        Caller {
            channel,
            metadata: vec![("authorization", authorization)],
            timeout: None,
        }
    }
}

impl Authority {
    /// What clients need that accept those whom this one signed for, and show that
    /// identity.
    pub fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&Identity>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let own = CertificateDer::from_pem_slice(self.pem().as_bytes()).unwrap();
        roots.add(own).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { certificate, key }) => {
                let key = key.serialize_der().try_into().unwrap();
                builder
                    .with_client_auth_cert(vec![certificate.der().clone()], key)
                    .unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

/// A connection that is made once.
pub async fn through<I, F>(connect: F) -> Result<Channel, Error>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    F: Future<Output = std::io::Result<I>> + Send + 'static,
{
    let mut once = Some(connect);
    let connector = tower::service_fn(move |_| {
        let connect = once.take();
        async move { connect.ok_or(std::io::Error::other("it was closed"))?.await }
    });
    Endpoint::from_static("http://auth.example")
        .connect_with_connector(connector)
        .await
}

async fn over_unix(path: &Path) -> Result<Channel, Error> {
    let path = path.to_owned();
    through(async move { UnixStream::connect(path).await.map(TokioIo::new) }).await
}

async fn open(address: &str) -> Result<Listeners, ListenError> {
    Listeners::open(&[address.parse().unwrap()], None).await
}

#[tokio::test]
async fn every_listener_has_the_same_services() {
    let folder = Folder::new();
    let paths = [folder.path("one.sock"), folder.path("two.sock")];
    let unix = paths.each_ref().map(|path| format!("unix:{}", text(path)));
    let addresses = ["127.0.0.1:0", &unix[0], &unix[1], "127.0.0.1:0"];
    let server = Listening::on(&addresses, None).await;
    let mut channels = Vec::new();
    for address in &server.addresses {
        channels.push(match address {
            Address::Unix(path) => over_unix(path).await.unwrap(),
            Address::Tcp(address) => {
                let socket = TcpStream::connect(address).await.unwrap();
                through(async move { Ok(TokioIo::new(socket)) })
                    .await
                    .unwrap()
            }
        });
    }
    for channel in channels {
        let answer = server.caller(channel).introspect(introspect("x")).await;
        assert!(!answer.unwrap().active);
    }
    for path in &paths {
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
    }
    server.stop.send(()).await.unwrap();
    assert_eq!(server.server.await.unwrap(), Ended::Drained);
    for path in &paths {
        assert!(!path.exists(), "{path:?} is left behind");
    }
}

#[tokio::test]
async fn what_a_killed_server_left_behind_is_no_obstacle() {
    let folder = Folder::new();
    let path = folder.path("left.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listeners = open(&format!("unix:{}", text(&path))).await.unwrap();
    UnixStream::connect(&path).await.expect("somebody listens");
    drop(listeners);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_that_somebody_listens_on_is_left_alone() {
    let folder = Folder::new();
    let path = folder.path("taken.sock");
    let _theirs = UnixListener::bind(&path).unwrap();
    let error = open(&format!("unix:{}", text(&path))).await.unwrap_err();
    assert!(matches!(error, ListenError::InUse(_)), "{error}");
    UnixStream::connect(&path).await.expect("they still do");
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let folder = Folder::new();
    let path = folder.write("precious", "data");
    let error = open(&format!("unix:{}", text(&path))).await.unwrap_err();
    assert!(matches!(error, ListenError::NoSocket(_)), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    let link = folder.path("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let error = open(&format!("unix:{}", text(&link))).await.unwrap_err();
    assert!(matches!(error, ListenError::NoSocket(_)), "{error}");
}

#[tokio::test]
async fn a_socket_that_took_the_place_of_ours_is_left_alone() {
    let folder = Folder::new();
    let path = folder.path("replaced.sock");
    let ours = open(&format!("unix:{}", text(&path))).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let _theirs = UnixListener::bind(&path).unwrap();
    drop(ours);
    UnixStream::connect(&path).await.expect("it is theirs");
}

#[tokio::test]
async fn where_nobody_can_listen_is_said() {
    let nowhere = open("unix:/nowhere/at/all.sock")
        .await
        .unwrap_err()
        .to_string();
    assert!(nowhere.contains("unix:/nowhere/at/all.sock"), "{nowhere}");
    let long = format!("unix:/tmp/{}", "x".repeat(200));
    let error = open(&long).await.unwrap_err();
    assert!(matches!(error, ListenError::Refused { .. }), "{error}");
}

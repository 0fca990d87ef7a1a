//! A server's certificate that is replaced, and how it is seen that it was.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

#[path = "../../../tests/support/certificates.rs"]
#[expect(dead_code, reason = "some of it is for tests")]
mod made;

use crate::support::folder::{self, Folder};
use made::Authority;

/// The name that the server goes by.
const NAME: &str = "auth.example";
/// How long it may take until a new certificate is shown.
const PATIENCE: Duration = Duration::from_secs(10);

/// The files of a server, and who signed them.
pub struct Certificates {
    authority: Authority,
    folder: Folder,
    /// The one that was made last, as it is shown.
    latest: Vec<u8>,
}

impl Certificates {
    /// With a first one in place.
    pub fn new() -> Self {
        let mut all = Self {
            authority: Authority::new("a benchmark's"),
            folder: Folder::new(),
            latest: Vec::new(),
        };
        all.replace();
        all
    }

    /// Where the certificate and the key are.
    pub fn files(&self) -> [PathBuf; 2] {
        ["server.pem", "server.key"].map(|name| self.folder.path(name))
    }

    /// Puts another certificate and key in place of those that are there, one after
    /// the other: for a moment they do not belong together.
    pub fn replace(&mut self) {
        let next = self.authority.sign(&[NAME]);
        let pem = next.certificate.pem();
        self.folder.replace("server.pem", &pem);
        let key = next.key.serialize_pem();
        self.folder.replace("server.key", &key);
        self.latest = next.certificate.der().to_vec();
    }

    /// Where a client finds the server, and whom it takes for it.
    pub fn endpoint(&self, address: SocketAddr) -> Endpoint {
        let config = ClientTlsConfig::new()
            .domain_name(NAME)
            .ca_certificate(Certificate::from_pem(self.authority.pem()));
        let endpoint = Endpoint::from_shared(format!("https://{address}"));
        let endpoint = endpoint.expect("an address").tls_config(config);
        endpoint.expect("a certificate").tcp_nodelay(true)
    }

    /// Waits until the server shows the latest one to those who come, and says how
    /// long that took; nothing where it never does.
    pub async fn until_shown(&self, address: SocketAddr) -> Option<Duration> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.shown(address).await == self.latest {
                return Some(begun.elapsed());
            }
        }
        None
    }

    /// The certificate that a new connection is shown.
    async fn shown(&self, address: SocketAddr) -> Vec<u8> {
        let mut roots = RootCertStore::empty();
        let own = CertificateDer::from_pem_slice(self.authority.pem().as_bytes());
        let own = own.expect("it was made here");
        roots.add(own).expect("it is one");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider knows them");
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(NAME).expect("a name");
        let socket = TcpStream::connect(address).await;
        let socket = socket.expect("the server accepts");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, socket);
        let stream = stream.await.expect("a handshake");
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().expect("a server shows one");
        shown[0].to_vec()
    }
}

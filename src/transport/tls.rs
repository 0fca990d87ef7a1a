//! TLS for callers: the certificate, its key and the authorities for client certificates,
//! from files.
//!
//! The files are polled, and replaced files are used for new connections; existing
//! connections keep what they began with. Files that cannot be used (a key of another
//! certificate, a half-written file) change nothing. TLS 1.2 and newer.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    InconsistentKeys, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{VerifierBuilderError, WebPkiClientVerifier},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, oneshot},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_cert::{
    Certificate,
    der::Decode,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

mod expiry;
mod measured;

use crate::domain::{Timestamp, certificate::CertificateName, clock::Clock};
use expiry::{ExpiryLog, Validity};
use measured::Failures;

/// The ALPN protocol ids (RFC 7301).
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Concurrent handshakes. Beyond the limit, the oldest one is aborted: handshakes of silent
/// peers are the oldest, so they cannot keep other callers out.
const MAX_HANDSHAKES: usize = 1024;

/// The paths of the PEM files.
#[derive(Clone, Debug)]
pub struct Files {
    /// The server's certificate, followed by its intermediates.
    pub certificate: PathBuf,
    /// Its key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
    /// The authorities that sign client certificates. Without them, the server requests no
    /// certificate.
    pub client_authorities: Option<PathBuf>,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{} cannot be read ({why})", path.display())]
    Unreadable {
        path: PathBuf,
        /// Part of the message, and therefore not a source.
        why: io::Error,
    },
    /// A file lacks the PEM section that it should hold.
    #[error("{} holds no {what} in PEM, or not a whole one", path.display())]
    Lacks {
        path: PathBuf,
        /// The kind of section.
        what: &'static str,
    },
    /// The key does not belong to the certificate.
    #[error("the key in {} is not that of the certificate in {}", key.display(), certificate.display())]
    NoPair { certificate: PathBuf, key: PathBuf },
    /// The content of a file is invalid.
    #[error("what {} holds cannot be used ({why})", path.display())]
    Unusable {
        path: PathBuf,
        /// The error of the TLS library.
        why: String,
    },
}

/// TLS for one protocol, with the latest usable files. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
    protocol: Protocol,
}

/// The names in a connection's client certificate.
#[derive(Clone, Debug)]
pub struct Peer(pub Arc<[CertificateName]>);

/// What a listener's callers speak.
#[derive(Clone, Copy)]
enum Protocol {
    /// gRPC, which is HTTP/2 only. Callers may send a certificate.
    Grpc,
    /// HTTP/1.1 or HTTP/2. Callers authenticate with tokens only.
    Http,
}

struct Shared {
    latest: ArcSwap<Loaded>,
    handshakes: Handshakes,
    failures: Failures,
}

/// The TLS configurations made from the files.
struct Loaded {
    grpc: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
    validity: Option<Validity>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Loads the files, and returns the watcher that reloads them.
    ///
    /// # Errors
    /// If the files cannot be used.
    pub fn load(files: Files) -> Result<(Self, Watcher), TlsError> {
        let contents = Contents::read(&files)?;
        let loaded = contents.load(&files)?;
        let tls = Self {
            shared: Arc::new(Shared {
                latest: ArcSwap::from_pointee(loaded),
                handshakes: Handshakes::default(),
                failures: Failures::default(),
            }),
            protocol: Protocol::Grpc,
        };
        let watcher = Watcher {
            used: contents.fingerprint(),
            tls: tls.clone(),
            files,
            rejected: None,
            expiry_log: ExpiryLog::default(),
        };
        Ok((tls, watcher))
    }

    /// The same certificate for HTTP callers (HTTP/2 or HTTP/1.1), without client
    /// certificates.
    #[must_use]
    pub fn for_http(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            protocol: Protocol::Http,
        }
    }

    /// The expiry of the server's certificate; None if it cannot be parsed.
    pub fn not_after(&self) -> Option<Timestamp> {
        Some(self.validity()?.until)
    }

    /// From when until when the server's certificate is valid; None if it cannot be parsed.
    pub fn validity_period(&self) -> Option<(Timestamp, Timestamp)> {
        let Validity { from, until } = self.validity()?;
        Some((from, until))
    }

    fn validity(&self) -> Option<Validity> {
        self.shared.latest.load().validity
    }

    /// Performs the handshake, and returns the names in the client certificate.
    ///
    /// # Errors
    /// If the handshake fails or times out.
    pub(crate) async fn accept<IO>(&self, io: IO) -> io::Result<(TlsStream<IO>, Option<Peer>)>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let result = self.handshake(io).await;
        if result.is_err() {
            self.shared.failures.count(self.protocol);
        }
        result
    }

    async fn handshake<IO>(&self, io: IO) -> io::Result<(TlsStream<IO>, Option<Peer>)>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let latest = self.shared.latest.load();
        let config = Arc::clone(match self.protocol {
            Protocol::Grpc => &latest.grpc,
            Protocol::Http => &latest.http,
        });
        drop(latest);
        let aborted = self.shared.handshakes.begin();
        let result = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(io));
        let stream = tokio::select! {
            result = result => result??,
            _ = aborted => return Err(io::Error::other("too many later handshakes")),
        };
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().and_then(<[_]>::first);
        // A certificate without a usable name counts as none.
        let names = shown.map(names).filter(|names| !names.is_empty());
        Ok((stream, names.map(|names| Peer(names.into()))))
    }
}

/// The handshakes in flight, the oldest first.
#[derive(Default)]
struct Handshakes(Mutex<VecDeque<oneshot::Sender<Infallible>>>);

impl Handshakes {
    /// Begins a handshake. The receiver resolves when the handshake must be aborted.
    fn begin(&self) -> oneshot::Receiver<Infallible> {
        let (handle, aborted) = oneshot::channel();
        let mut in_flight = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        in_flight.push_back(handle);
        if in_flight.len() > MAX_HANDSHAKES {
            in_flight.retain(|handle| !handle.is_closed());
        }
        if in_flight.len() > MAX_HANDSHAKES {
            in_flight.pop_front();
        }
        aborted
    }
}

/// Reloads the files when they change.
#[derive(Debug)]
pub struct Watcher {
    tls: Tls,
    files: Files,
    /// The fingerprint of the files in use.
    used: blake3::Hash,
    /// The fingerprint of newer files that cannot be used.
    rejected: Option<blake3::Hash>,
    expiry_log: ExpiryLog,
}

/// The outcome of a check of the files.
#[derive(Debug)]
pub enum Reload {
    /// Nothing changed since the last check.
    Unchanged,
    /// The files changed, and new connections use them.
    Replaced,
    /// The files changed and cannot be used. Reported once for the same content.
    Rejected(TlsError),
}

impl Watcher {
    /// Reloads the files if their content changed, however they were replaced.
    pub fn reload(&mut self) -> Reload {
        let contents = Contents::read(&self.files);
        let seen = match &contents {
            Ok(contents) => contents.fingerprint(),
            Err(error) => blake3::hash(error.to_string().as_bytes()),
        };
        if seen == self.used {
            self.rejected = None;
            return Reload::Unchanged;
        }
        if self.rejected == Some(seen) {
            return Reload::Unchanged;
        }
        match contents.and_then(|contents| contents.load(&self.files)) {
            Ok(loaded) => {
                self.tls.shared.latest.store(Arc::new(loaded));
                self.used = seen;
                self.rejected = None;
                Reload::Replaced
            }
            Err(error) => {
                self.rejected = Some(seen);
                Reload::Rejected(error)
            }
        }
    }

    /// Checks the files at an interval and on each notification, and logs the outcome. Runs
    /// until aborted.
    pub async fn run(mut self, every: Duration, notified: Arc<Notify>, clock: Arc<dyn Clock>) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.log_certificate("TLS is on");
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = notified.notified() => {}
            }
            // Reading may block, for example on a network file system.
            let reloaded = tokio::task::spawn_blocking(move || {
                let outcome = self.reload();
                (self, outcome)
            });
            let Ok((watcher, outcome)) = reloaded.await else {
                // The runtime is shutting down.
                return;
            };
            self = watcher;
            match outcome {
                Reload::Unchanged => {}
                Reload::Replaced => self.log_certificate("the certificates were replaced"),
                Reload::Rejected(error) => tracing::warn!(
                    %error,
                    "the certificates on disk cannot be used: the previous ones stay in use"
                ),
            }
            self.expiry_log.update(self.tls.validity(), clock.now());
        }
    }

    fn log_certificate(&self, what: &str) {
        if let Some(end) = self.tls.not_after() {
            tracing::info!(certificate.not_after = %end, "{what}");
        } else {
            tracing::info!("{what}");
        }
    }
}

/// The content of the files.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_authorities: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &Files) -> Result<Self, TlsError> {
        let read = |path: &PathBuf| {
            fs::read(path).map_err(|why| TlsError::Unreadable {
                path: path.clone(),
                why,
            })
        };
        Ok(Self {
            certificate: read(&files.certificate)?,
            key: read(&files.key)?,
            client_authorities: files.client_authorities.as_ref().map(read).transpose()?,
        })
    }

    /// A fingerprint of the content, which does not reveal it.
    fn fingerprint(&self) -> blake3::Hash {
        let authorities = self.client_authorities.as_deref().unwrap_or_default();
        let mut hasher = blake3::Hasher::new();
        for file in [&self.certificate[..], &self.key, authorities] {
            hasher.update(blake3::hash(file).as_bytes());
        }
        hasher.finalize()
    }

    fn load(&self, files: &Files) -> Result<Loaded, TlsError> {
        let unusable = |path: &Path, why: &dyn fmt::Display| TlsError::Unusable {
            path: path.to_owned(),
            why: why.to_string(),
        };
        let provider = Arc::new(ring::default_provider());
        let versions = || {
            ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[&TLS13, &TLS12])
                .map_err(|error| unusable(&files.certificate, &error))
        };
        let builder = versions()?;
        let builder = match (&self.client_authorities, &files.client_authorities) {
            (Some(pem), Some(path)) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(pem, path)? {
                    let added = roots.add(authority);
                    added.map_err(|error| unusable(path, &error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
                    // Callers with a token need no certificate.
                    .allow_unauthenticated()
                    .build();
                let verifier =
                    verifier.map_err(|error: VerifierBuilderError| unusable(path, &error))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let chain = certificates(&self.certificate, &files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).or(Err(TlsError::Lacks {
            path: files.key.clone(),
            what: "unencrypted private key",
        }))?;
        let validity = chain.first().and_then(Validity::of);
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    TlsError::NoPair {
                        certificate: files.certificate.clone(),
                        key: files.key.clone(),
                    }
                }
                rustls::Error::InvalidCertificate(_) => unusable(&files.certificate, &error),
                _ => unusable(&files.key, &error),
            })?;
        config.alpn_protocols = vec![HTTP2.to_vec()];
        let mut http = versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&config.cert_resolver));
        http.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        Ok(Loaded {
            grpc: Arc::new(config),
            http: Arc::new(http),
            validity,
        })
    }
}

/// All certificates of a file, at least one.
fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let some = read.ok().filter(|certificates| !certificates.is_empty());
    some.ok_or_else(|| TlsError::Lacks {
        path: path.to_owned(),
        what: "certificate",
    })
}

/// The names in a certificate that a service account can have. If there are several URIs,
/// none counts, as the SPIFFE standard requires.
fn names(certificate: &CertificateDer<'_>) -> Vec<CertificateName> {
    let alternatives = Certificate::from_der(certificate)
        .and_then(|certificate| certificate.tbs_certificate.get::<SubjectAltName>());
    let Ok(Some((_, SubjectAltName(alternatives)))) = alternatives else {
        return Vec::new();
    };
    let is_uri = |name: &&GeneralName| matches!(name, GeneralName::UniformResourceIdentifier(_));
    let uris = alternatives.iter().filter(is_uri).count();
    let name = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => CertificateName::dns(name.as_str()).ok(),
        GeneralName::UniformResourceIdentifier(id) if uris == 1 => {
            CertificateName::spiffe(id.as_str()).ok()
        }
        _ => None,
    };
    alternatives.iter().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_handshake_is_aborted_beyond_the_limit() {
        let handshakes = Handshakes::default();
        let mut first = handshakes.begin();
        let mut others: Vec<_> = (1..MAX_HANDSHAKES).map(|_| handshakes.begin()).collect();
        // A handshake that has ended makes room.
        drop(others.pop());
        let mut next = handshakes.begin();
        let waiting = Err(oneshot::error::TryRecvError::Empty);
        assert_eq!(first.try_recv(), waiting);
        let _newest = handshakes.begin();
        assert_eq!(first.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(others.iter_mut().all(|other| other.try_recv() == waiting));
        assert_eq!(next.try_recv(), waiting);
    }
}

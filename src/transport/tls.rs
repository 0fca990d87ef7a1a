//! TLS for callers: the certificate, its key and the authorities that sign the
//! callers' certificates, from files.
//!
//! The files are looked at again and again, and what replaces them is taken up for
//! the connections that come next; those that are there go on with what they began
//! with. What cannot be used (a key that belongs to another certificate, a file
//! that is half written) changes nothing. TLS 1.2 and newer.

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
use expiry::{Told, Validity};
use measured::Failures;

/// What the versions of HTTP are called in a handshake.
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes under way at once. One more, and the oldest is given up: those that
/// say nothing are the oldest, and cannot keep the others out.
const MAX_HANDSHAKES: usize = 1024;

/// Where everything is, in PEM.
#[derive(Clone, Debug)]
pub struct Files {
    /// The server's certificate, and those that lead from it to a known authority.
    pub certificate: PathBuf,
    /// Its key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
    /// The authorities that sign the callers' certificates; without them none is
    /// asked for.
    pub client_authorities: Option<PathBuf>,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One cannot be read.
    #[error("{} cannot be read ({why})", path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// Why; told already, and so no source.
        why: io::Error,
    },
    /// One does not hold what it should.
    #[error("{} holds no {what} in PEM, or not a whole one", path.display())]
    Lacks {
        /// Which one.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// The two are not of one another.
    #[error("the key in {} is not that of the certificate in {}", key.display(), certificate.display())]
    NoPair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// What one holds is of no use.
    #[error("what {} holds cannot be used ({why})", path.display())]
    Unusable {
        /// Which one.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// TLS for callers of one kind, with the latest files that could be used. Cheap to
/// clone.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
    callers: Callers,
}

/// The names in the client certificate that was shown on a connection.
#[derive(Clone, Debug)]
pub struct Peer(pub Arc<[CertificateName]>);

/// What callers speak.
#[derive(Clone, Copy)]
enum Callers {
    /// gRPC, and so HTTP/2 and nothing else. They may show a certificate.
    Grpc,
    /// HTTP of either version. They are known by their tokens alone.
    Http,
}

struct Shared {
    latest: ArcSwap<Loaded>,
    handshakes: Handshakes,
    failures: Failures,
}

/// What was made of the files.
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
    /// Reads the files, and gives what looks at them from then on.
    ///
    /// # Errors
    /// Where they cannot be used.
    pub fn load(files: Files) -> Result<(Self, Watcher), TlsError> {
        let contents = Contents::read(&files)?;
        let loaded = contents.load(&files)?;
        let tls = Self {
            shared: Arc::new(Shared {
                latest: ArcSwap::from_pointee(loaded),
                handshakes: Handshakes::default(),
                failures: Failures::default(),
            }),
            callers: Callers::Grpc,
        };
        let watcher = Watcher {
            used: contents.fingerprint(),
            tls: tls.clone(),
            files,
            refused: None,
            told: Told::default(),
        };
        Ok((tls, watcher))
    }

    /// The same certificates for callers that speak plain HTTP, of version 2 or 1.1. They
    /// are asked for no certificate.
    #[must_use]
    pub fn for_http(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            callers: Callers::Http,
        }
    }

    /// When the certificate that is shown ends; none where that cannot be read.
    pub fn not_after(&self) -> Option<Timestamp> {
        Some(self.validity()?.until)
    }

    fn validity(&self) -> Option<Validity> {
        self.shared.latest.load().validity
    }

    /// Shakes hands, and tells whom the caller's certificate names.
    ///
    /// # Errors
    /// Where the caller will not, or takes too long.
    pub(crate) async fn accept<IO>(&self, io: IO) -> io::Result<(TlsStream<IO>, Option<Peer>)>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let shaken = self.shake(io).await;
        if shaken.is_err() {
            self.shared.failures.count(self.callers);
        }
        shaken
    }

    async fn shake<IO>(&self, io: IO) -> io::Result<(TlsStream<IO>, Option<Peer>)>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let latest = self.shared.latest.load();
        let config = Arc::clone(match self.callers {
            Callers::Grpc => &latest.grpc,
            Callers::Http => &latest.http,
        });
        drop(latest);
        let given_up = self.shared.handshakes.begin();
        let shaken = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(io));
        let stream = tokio::select! {
            shaken = shaken => shaken??,
            _ = given_up => return Err(io::Error::other("there were too many handshakes after it")),
        };
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().and_then(<[_]>::first);
        // One without a name that could be somebody's is as good as none.
        let names = shown.map(names).filter(|names| !names.is_empty());
        Ok((stream, names.map(|names| Peer(names.into()))))
    }
}

/// The handshakes under way, the oldest first.
#[derive(Default)]
struct Handshakes(Mutex<VecDeque<oneshot::Sender<Infallible>>>);

impl Handshakes {
    /// Begins one. What comes back is ready when it is given up.
    fn begin(&self) -> oneshot::Receiver<Infallible> {
        let (life, given_up) = oneshot::channel();
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.push_back(life);
        if under_way.len() > MAX_HANDSHAKES {
            under_way.retain(|life| !life.is_closed());
        }
        if under_way.len() > MAX_HANDSHAKES {
            under_way.pop_front();
        }
        given_up
    }
}

/// Looks at the files again.
#[derive(Debug)]
pub struct Watcher {
    tls: Tls,
    files: Files,
    /// Those that are used.
    used: blake3::Hash,
    /// Those that were there instead at the last look, and cannot be used.
    refused: Option<blake3::Hash>,
    /// What was said of the certificate's end.
    told: Told,
}

/// What a look at the files came to.
#[derive(Debug)]
pub enum Look {
    /// There is nothing new.
    Same,
    /// They are other ones, which are used from here on.
    TrackedBody,
    /// They are other ones and cannot be used; said once of the same ones.
    Refused(TlsError),
}

impl Watcher {
    /// Looks at the files, and takes them up where they changed. By their content: it
    /// does not matter how they were replaced.
    pub fn look(&mut self) -> Look {
        let contents = Contents::read(&self.files);
        let seen = match &contents {
            Ok(contents) => contents.fingerprint(),
            Err(error) => blake3::hash(error.to_string().as_bytes()),
        };
        if seen == self.used {
            self.refused = None;
            return Look::Same;
        }
        if self.refused == Some(seen) {
            return Look::Same;
        }
        match contents.and_then(|contents| contents.load(&self.files)) {
            Ok(loaded) => {
                self.tls.shared.latest.store(Arc::new(loaded));
                self.used = seen;
                self.refused = None;
                Look::TrackedBody
            }
            Err(error) => {
                self.refused = Some(seen);
                Look::Refused(error)
            }
        }
    }

    /// Looks every so often, and whenever told to, and says in the log what came of
    /// it. Until aborted.
    pub async fn run(mut self, every: Duration, told: Arc<Notify>, clock: Arc<dyn Clock>) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.tell_of("TLS is on");
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = told.notified() => {}
            }
            // The files may be on a disk that takes its time.
            let looked = tokio::task::spawn_blocking(move || {
                let look = self.look();
                (self, look)
            });
            let Ok((watcher, look)) = looked.await else {
                // The runtime ends.
                return;
            };
            self = watcher;
            match look {
                Look::Same => {}
                Look::TrackedBody => self.tell_of("the certificates were replaced"),
                Look::Refused(error) => tracing::warn!(
                    %error,
                    "the certificates on disk cannot be used: those from before stay"
                ),
            }
            self.told.tell(self.tls.validity(), clock.now());
        }
    }

    fn tell_of(&self, what: &str) {
        if let Some(end) = self.tls.not_after() {
            tracing::info!(certificate.not_after = %end, "{what}");
        } else {
            tracing::info!("{what}");
        }
    }
}

/// The files' contents, as they were read.
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

    /// Tells these contents from all others, and nothing of what they are.
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

/// All certificates of a file, of which there must be one.
fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let some = read.ok().filter(|certificates| !certificates.is_empty());
    some.ok_or_else(|| TlsError::Lacks {
        path: path.to_owned(),
        what: "certificate",
    })
}

/// The names in a certificate that a service account can be known by. Of several
/// URIs none counts, as the SPIFFE standard has it.
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
    fn of_too_many_handshakes_the_oldest_is_given_up() {
        let handshakes = Handshakes::default();
        let mut first = handshakes.begin();
        let mut others: Vec<_> = (1..MAX_HANDSHAKES).map(|_| handshakes.begin()).collect();
        // One that has ended makes room.
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

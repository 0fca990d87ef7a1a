//! TLS as a client: when to encrypt, and how to verify the server's certificate.
//!
//! The files are read again for each connection, so that replaced ones apply to the next.
//! Reading blocks, and must not run on a thread of the runtime.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{self, CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    server::ParsedCertificate,
};
use tokio_postgres::config::SslMode;

/// How to encrypt connections to Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Encryption {
    /// Whether to encrypt. With `Prefer`, clear text is used only if the server has no TLS.
    pub(super) when: SslMode,
    /// Whether the certificate must be for the server's host name.
    pub(super) hostname_check: HostnameCheck,
    /// The authorities that must have signed the certificate; `None` accepts any.
    pub(super) authorities: Option<Authorities>,
    /// The files of the client certificate and its key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

/// Whether the host name in the certificate is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostnameCheck {
    /// Any certificate that the authorities signed is accepted.
    Skipped,
    /// The certificate must be for the server's host name.
    Required,
}

/// The trusted certificate authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorities {
    /// The certificates of a PEM file.
    File(PathBuf),
    /// The authorities that the system trusts.
    System,
}

/// Why the TLS configuration cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of certificates or of a key cannot be read.
    #[error("{} holds no {what} in PEM", path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// The cause.
        source: pem::Error,
    },
    /// No usable authority was found.
    #[error("no authority is known that could have signed the server's certificate")]
    NoAuthority,
    /// rustls rejects the certificates or the key.
    #[error("the certificates cannot be used")]
    Unusable(#[source] Error),
}

impl Encryption {
    /// Whether building the configuration reads files.
    pub(super) const fn has_files(&self) -> bool {
        self.authorities.is_some() || self.identity.is_some()
    }

    /// Builds the TLS configuration.
    pub(super) fn client(&self) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match &self.authorities {
            None => Arc::new(Unverified(Arc::clone(&provider))),
            Some(authorities) => {
                let roots = Arc::new(authorities.load()?);
                match self.hostname_check {
                    HostnameCheck::Skipped => Arc::new(AnyHostname {
                        roots,
                        provider: Arc::clone(&provider),
                    }),
                    HostnameCheck::Required => {
                        let provider = Arc::clone(&provider);
                        WebPkiServerVerifier::builder_with_provider(roots, provider)
                            .build()
                            .or(Err(TlsError::NoAuthority))?
                    }
                }
            }
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let Some((certificate, key)) = &self.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let key = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::File {
            path: key.clone(),
            what: "unencrypted private key",
            source,
        })?;
        let own = builder.with_client_auth_cert(certificates(certificate)?, key);
        own.map_err(TlsError::Unusable)
    }
}

impl Authorities {
    fn load(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        match self {
            Self::File(path) => {
                for authority in certificates(path)? {
                    roots.add(authority).map_err(TlsError::Unusable)?;
                }
            }
            // Some of the system's certificates may be unparsable.
            Self::System => {
                let found = rustls_native_certs::load_native_certs().certs;
                roots.add_parsable_certificates(found);
            }
        }
        if roots.is_empty() {
            return Err(TlsError::NoAuthority);
        }
        Ok(roots)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::File {
        path: path.to_owned(),
        what: "certificate",
        source,
    };
    let read = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let read: Vec<_> = read.collect::<Result<_, _>>().map_err(failed)?;
    if read.is_empty() {
        return Err(failed(pem::Error::NoItemsFound));
    }
    Ok(read)
}

/// Verifies the chain of signatures, but not the host name.
#[derive(Debug)]
struct AnyHostname {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl AnyHostname {
    /// The verification of signatures, which does not depend on the name.
    fn signatures_only(&self) -> Unverified {
        Unverified(Arc::clone(&self.provider))
    }
}

impl ServerCertVerifier for AnyHostname {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let certificate = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verifier = self.signatures_only();
        verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verifier = self.signatures_only();
        verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures_only().supported_verify_schemes()
    }
}

/// Accepts any certificate: encrypted, but open to an active attacker.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A TLS configuration that verifies the server and its host name, and shows a certificate
/// of its own if there is one: the files of the certificate and of its key. Blocks on the
/// file system.
///
/// # Errors
/// If a file cannot be used.
pub fn verified_client_config(
    authorities: Authorities,
    identity: Option<(PathBuf, PathBuf)>,
) -> Result<ClientConfig, TlsError> {
    let encryption = Encryption {
        when: SslMode::Require,
        hostname_check: HostnameCheck::Required,
        authorities: Some(authorities),
        identity,
    };
    encryption.client()
}

/// A TLS configuration that accepts any server. Only for connections without secrets.
///
/// # Panics
/// Never: the provider has all versions of TLS.
pub fn unverified_client_config() -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has the versions that are safe")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        .with_no_client_auth()
}

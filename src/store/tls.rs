//! Encryption where this process is the client: when, and whose certificate will do.
//!
//! The files are read for each connection anew, so those that replace them are taken
//! up with the next one. That takes a while, and is not for a thread that others need.

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

/// How to encrypt what is said to Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Encryption {
    /// Whether to. `Prefer` is clear text only where the server offers nothing else.
    pub(super) when: SslMode,
    /// Whether the certificate must be the host's.
    pub(super) names: Names,
    /// Who must have signed it; nobody in particular where there are none.
    pub(super) authorities: Option<Authorities>,
    /// The files of our own certificate and its key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

/// Whose certificate will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// Anybody's whom the authorities signed for.
    Any,
    /// That of the host that was asked for.
    Checked,
}

/// Who is trusted to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Authorities {
    /// Those of a file.
    File(PathBuf),
    /// Those that the system trusts.
    System,
}

/// Why there can be no encryption.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// A file of certificates, or of a key, cannot be used.
    #[error("{} holds no {what} in PEM", path.display())]
    File {
        path: PathBuf,
        what: &'static str,
        source: pem::Error,
    },
    /// No authority can be used.
    #[error("no authority is known that could have signed the server's certificate")]
    NoAuthority,
    /// What was read cannot be used.
    #[error("the certificates cannot be used")]
    Unusable(#[source] Error),
}

impl Encryption {
    /// Whether files are read for it.
    pub(super) const fn has_files(&self) -> bool {
        self.authorities.is_some() || self.identity.is_some()
    }

    /// How a client shakes hands.
    pub(super) fn client(&self) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match &self.authorities {
            None => Arc::new(Anybody(Arc::clone(&provider))),
            Some(authorities) => {
                let roots = Arc::new(authorities.load()?);
                match self.names {
                    Names::Any => Arc::new(AnyName {
                        roots,
                        provider: Arc::clone(&provider),
                    }),
                    Names::Checked => {
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
            // Some of them may be of a kind that nobody can read.
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

/// Takes the authorities' word, whatever host they signed for.
#[derive(Debug)]
struct AnyName {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl AnyName {
    /// What does not hang on the name.
    fn of_signatures(&self) -> Anybody {
        Anybody(Arc::clone(&self.provider))
    }
}

impl ServerCertVerifier for AnyName {
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
        let verifier = self.of_signatures();
        verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verifier = self.of_signatures();
        verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.of_signatures().supported_verify_schemes()
    }
}

/// Takes anybody's word for who they are: encrypted, but perhaps by somebody in
/// between.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
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

/// For what holds no secret: encrypted, whoever is at the other end.
///
/// # Panics
/// Never: the provider has all versions of TLS.
pub fn with_anybody() -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has the versions that are safe")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth()
}

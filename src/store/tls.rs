//! TLS as a client: when to encrypt, and how to verify the server's certificate.
//!
//! The files are read again for each connection, so that replaced ones apply to the next.
//! Reading blocks, and must not run on a thread of the runtime.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{self, CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use tokio_postgres::config::SslMode;

pub use crate::client::tls::{Authorities, TlsError};
use crate::client::tls::{certificates, private_key};

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

impl Encryption {
    /// Whether building the configuration reads files.
    pub(super) const fn has_files(&self) -> bool {
        self.authorities.is_some() || self.identity.is_some()
    }

    /// Builds the TLS configuration.
    pub(super) fn client(&self) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let roots = self.authorities.as_ref().map(Authorities::load);
        let roots = roots.transpose()?.map(Arc::new);
        let verifier: Arc<dyn ServerCertVerifier> = match (roots, self.hostname_check) {
            (Some(roots), HostnameCheck::Required) => {
                WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                    .build()
                    .or(Err(TlsError::NoAuthority))?
            }
            (None, HostnameCheck::Required) => return Err(TlsError::NoAuthority),
            (roots, HostnameCheck::Skipped) => Arc::new(AnyHostname {
                roots,
                provider: Arc::clone(&provider),
            }),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let Some((certificate, key)) = &self.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let own = builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?);
        own.map_err(TlsError::Unusable)
    }
}

/// Verifies the chain of signatures, if there are authorities, and never the host name.
#[derive(Debug)]
struct AnyHostname {
    /// `None` accepts any certificate: encrypted, but open to an active attacker.
    roots: Option<Arc<RootCertStore>>,
    provider: Arc<CryptoProvider>,
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
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(certificate)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                roots,
                intermediates,
                now,
                algorithms,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// A TLS configuration that accepts no server, for where TLS is not to be used.
///
/// # Panics
/// Never: the provider has all versions of TLS.
pub fn distrustful_client_config() -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the versions that are safe")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

/// A TLS configuration that accepts any server. Only for connections without secrets.
///
/// # Panics
/// Never: the provider has all versions of TLS.
pub fn unverified_client_config() -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let verifier = AnyHostname {
        roots: None,
        provider: Arc::clone(&provider),
    };
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the versions that are safe")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth()
}

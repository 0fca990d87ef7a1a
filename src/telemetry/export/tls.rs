//! TLS for collectors: the trusted CA certificates and the client certificate, from files
//! that variables name. They are read at startup, so an invalid one is reported then and not
//! with the first export.

use std::{fs, io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::telemetry::settings::{Collector, File};

/// Why TLS for a collector cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(in crate::telemetry) enum CollectorTlsError {
    #[error("names {}, which cannot be read ({source})", file.path.display())]
    Unreadable { file: File, source: io::Error },
    /// The file does not have the expected content.
    #[error("names {}, which holds no {what} in PEM, or not a whole one", file.path.display())]
    WrongContent {
        file: File,
        /// The expected content.
        what: &'static str,
    },
    /// The content of the file cannot be used.
    #[error("names {}, which cannot be used ({source})", file.path.display())]
    Unusable { file: File, source: rustls::Error },
    #[error("must name CA certificates, because the system has none")]
    NoRoots,
}

impl CollectorTlsError {
    /// The variable to correct.
    pub(in crate::telemetry) fn variable(&self) -> &str {
        match self {
            Self::Unreadable { file, .. }
            | Self::WrongContent { file, .. }
            | Self::Unusable { file, .. } => &file.variable,
            Self::NoRoots => "OTEL_EXPORTER_OTLP_CERTIFICATE",
        }
    }
}

/// Whether the collector's endpoint uses TLS.
pub(super) fn is_used(collector: &Collector) -> bool {
    collector.endpoint.scheme_str() == Some("https")
}

/// For tonic, which takes PEM.
pub(super) fn for_grpc(collector: &Collector) -> Result<ClientTlsConfig, CollectorTlsError> {
    let mut tls = ClientTlsConfig::new();
    tls = match &collector.certificate {
        Some(file) => {
            let pem = read(file)?;
            certificates(file, &pem)?;
            tls.ca_certificate(Certificate::from_pem(pem))
        }
        None => tls.with_native_roots(),
    };
    if let Some((certificate, key)) = &collector.identity {
        let (chain, secret) = (read(certificate)?, read(key)?);
        certificates(certificate, &chain)?;
        private_key(key, &secret)?;
        tls = tls.identity(Identity::from_pem(chain, secret));
    }
    Ok(tls)
}

/// For the HTTP client. Without TLS, no file is read.
pub(super) fn for_http(collector: &Collector) -> Result<ClientConfig, CollectorTlsError> {
    let builder = |roots: RootCertStore| {
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has what these versions need")
            .with_root_certificates(roots)
    };
    if !is_used(collector) {
        return Ok(builder(RootCertStore::empty()).with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    if let Some(file) = &collector.certificate {
        for authority in certificates(file, &read(file)?)? {
            let added = roots.add(authority);
            added.map_err(|source| unusable(file, source))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(CollectorTlsError::NoRoots);
    }
    match &collector.identity {
        Some((certificate, key)) => {
            let chain = certificates(certificate, &read(certificate)?)?;
            let secret = private_key(key, &read(key)?)?;
            let shown = builder(roots).with_client_auth_cert(chain, secret);
            shown.map_err(|source| unusable(key, source))
        }
        None => Ok(builder(roots).with_no_client_auth()),
    }
}

fn read(file: &File) -> Result<Vec<u8>, CollectorTlsError> {
    fs::read(&file.path).map_err(|source| CollectorTlsError::Unreadable {
        file: file.clone(),
        source,
    })
}

fn certificates(
    file: &File,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, CollectorTlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let some = all.ok().filter(|certificates| !certificates.is_empty());
    some.ok_or_else(|| CollectorTlsError::WrongContent {
        file: file.clone(),
        what: "certificate",
    })
}

fn private_key(file: &File, pem: &[u8]) -> Result<PrivateKeyDer<'static>, CollectorTlsError> {
    PrivateKeyDer::from_pem_slice(pem).or(Err(CollectorTlsError::WrongContent {
        file: file.clone(),
        what: "unencrypted private key",
    }))
}

fn unusable(file: &File, source: rustls::Error) -> CollectorTlsError {
    CollectorTlsError::Unusable {
        file: file.clone(),
        source,
    }
}

//! TLS as a client: which servers are trusted, and the certificate to show them.
//!
//! Files are read again for each connection, so that replaced ones apply to the next. Reading
//! blocks, and must not happen on a thread of the runtime.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, Error, RootCertStore,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};

/// The trusted certificate authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Authorities {
    /// The authorities that the system trusts.
    #[default]
    System,
    /// The certificates of a PEM file.
    File(PathBuf),
}

/// How encrypted connections are verified, in both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    /// The authorities that must have signed the server's certificate.
    pub authorities: Authorities,
    /// The PEM files of the own certificate and of its key, if the server should know this
    /// program by one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Why the TLS configuration cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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

impl Authorities {
    /// Reads the authorities.
    ///
    /// # Errors
    /// If there are none, or they cannot be read.
    pub fn load(&self) -> Result<RootCertStore, TlsError> {
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

impl Certificates {
    /// A configuration that verifies the server and its host name, and shows the own
    /// certificate if there is one.
    ///
    /// # Errors
    /// If a file cannot be used.
    pub fn client_config(&self) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?
            .with_root_certificates(self.authorities.load()?);
        let Some((certificate, key)) = &self.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let own = builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?);
        own.map_err(TlsError::Unusable)
    }
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// [`TlsError::File`].
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
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

/// The private key of a PEM file.
///
/// # Errors
/// [`TlsError::File`].
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::File {
        path: path.to_owned(),
        what: "unencrypted private key",
        source,
    })
}

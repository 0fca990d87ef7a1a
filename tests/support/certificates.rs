//! Certificates of the tests' own, as the files that programs read.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    SanType, date_time_ymd,
};

use super::folder::Folder;

/// Who signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub struct Identity {
    pub certificate: Certificate,
    pub key: KeyPair,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate with those alternative names: DNS names, addresses, and URIs,
    /// which have a colon and two slashes in them.
    pub fn sign(&self, names: &[&str]) -> Identity {
        self.sign_until(names, 4000)
    }

    /// The same, that ends when that year begins.
    pub fn sign_until(&self, names: &[&str], year: i32) -> Identity {
        self.sign_until_day(names, (year, 1, 1))
    }

    /// The same, that ends when that day begins, of that year and month.
    pub fn sign_until_day(&self, names: &[&str], (year, month, day): (i32, u8, u8)) -> Identity {
        let (uris, others): (Vec<_>, Vec<_>) = names
            .iter()
            .map(ToString::to_string)
            .partition(|name| name.contains("://"));
        let mut params = CertificateParams::new(others).unwrap();
        params.not_after = date_time_ymd(year, month, day);
        let uris = uris
            .into_iter()
            .map(|uri| SanType::URI(uri.try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity { certificate, key }
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }
}

impl Folder {
    /// Writes an identity as `NAME.pem` and `NAME.key`.
    pub fn write_identity(&self, name: &str, identity: &Identity) -> (PathBuf, PathBuf) {
        let certificate = self.write(&format!("{name}.pem"), &identity.certificate.pem());
        let key = self.write(&format!("{name}.key"), &identity.key.serialize_pem());
        (certificate, key)
    }
}

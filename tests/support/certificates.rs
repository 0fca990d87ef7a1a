//! Certificates of the tests' own, as the files that programs read.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    SanType, date_time_ymd,
};

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

/// A folder with certificates in it. Removed when dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hka-tls-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file into it, in place of what has that name.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The same, in one step: a reader finds the old one or the new one.
    pub fn replace(&self, name: &str, content: &str) {
        let new = self.write(&format!("{name}.new"), content);
        std::fs::rename(new, self.path(name)).unwrap();
    }

    /// Writes an identity as `NAME.pem` and `NAME.key`.
    pub fn write_identity(&self, name: &str, identity: &Identity) -> (PathBuf, PathBuf) {
        let certificate = self.write(&format!("{name}.pem"), &identity.certificate.pem());
        let key = self.write(&format!("{name}.key"), &identity.key.serialize_pem());
        (certificate, key)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A path as the text of an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("it is text")
}

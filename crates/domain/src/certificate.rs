//! The certificate names that can identify a caller: DNS names and SPIFFE ids.

use std::{fmt, str::FromStr};

/// The prefix of a DNS name.
const DNS: &str = "dns:";
/// The scheme of a SPIFFE id.
const SPIFFE: &str = "spiffe://";
/// RFC 1035, for the textual form.
const MAX_DNS: usize = 253;
const MAX_LABEL: usize = 63;
/// The SPIFFE id standard, section 2.3.
const MAX_SPIFFE: usize = 2048;
const MAX_TRUST_DOMAIN: usize = 255;

/// A name from a certificate, in the form that is stored: `dns:NAME` in lower case, or
/// `spiffe://TRUST-DOMAIN/PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CertificateName(Box<str>);

/// The text is not a name that can identify a service account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be dns: and a name without wildcards, such as dns:sidecar.internal, or a SPIFFE id, \
     such as spiffe://example.org/sidecar"
)]
pub struct BadCertificateName;

impl CertificateName {
    /// A DNS name, without regard to case. Wildcards are refused: a name that matches many
    /// hosts identifies none.
    pub fn dns(name: &str) -> Result<Self, BadCertificateName> {
        let is_label = |label: &str| {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            (1..=MAX_LABEL).contains(&label.len())
                && label.bytes().all(inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() <= MAX_DNS && name.split('.').all(is_label) {
            let name = format!("{DNS}{}", name.to_ascii_lowercase());
            Ok(Self(name.into()))
        } else {
            Err(BadCertificateName)
        }
    }

    /// A SPIFFE id of a workload: it must have a path.
    pub fn spiffe(id: &str) -> Result<Self, BadCertificateName> {
        let rest = id.strip_prefix(SPIFFE).ok_or(BadCertificateName)?;
        let (domain, path) = rest.split_once('/').ok_or(BadCertificateName)?;
        let in_domain = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
        };
        let is_segment = |segment: &str| {
            let inner =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            !["", ".", ".."].contains(&segment) && segment.bytes().all(inner)
        };
        let good = id.len() <= MAX_SPIFFE
            && (1..=MAX_TRUST_DOMAIN).contains(&domain.len())
            && domain.bytes().all(in_domain)
            && path.split('/').all(is_segment);
        if good {
            Ok(Self(id.into()))
        } else {
            Err(BadCertificateName)
        }
    }

    /// The stored form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CertificateName {
    type Err = BadCertificateName;

    fn from_str(text: &str) -> Result<Self, BadCertificateName> {
        match text.strip_prefix(DNS) {
            Some(name) => Self::dns(name),
            None => Self::spiffe(text),
        }
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<String> {
        text.parse::<CertificateName>()
            .ok()
            .map(|name| name.to_string())
    }

    #[test]
    fn names_round_trip() {
        for same in [
            "dns:sidecar.internal",
            "dns:localhost",
            "dns:_grpc.a-b.example",
            "dns:xn--bcher-kva.example",
            "spiffe://example.org/ns/default/sa/sidecar",
            "spiffe://example.org/A.b_c-1",
        ] {
            assert_eq!(read(same).as_deref(), Some(same));
        }
        assert_eq!(
            read("dns:Side.Internal").as_deref(),
            Some("dns:side.internal")
        );
    }

    #[test]
    fn invalid_and_wildcard_names_are_refused() {
        for none in [
            "",
            "dns:",
            "sidecar.internal",
            "dns:*.internal",
            "dns:a..b",
            "dns:.a",
            "dns:a.",
            "dns:-a",
            "dns:a-",
            "dns:a b",
            "dns:bücher.example",
            "DNS:a",
            "spiffe://example.org",
            "spiffe://example.org/",
            "spiffe:///sidecar",
            "spiffe://Example.org/sidecar",
            "spiffe://example.org/a//b",
            "spiffe://example.org/a/",
            "spiffe://example.org/../b",
            "spiffe://example.org/./b",
            "spiffe://example.org/a?b",
            "spiffe://example.org/a#b",
            "spiffe://example.org/a%20b",
            "spiffe://example.org:1/a",
            "spiffe://user@example.org/a",
            "SPIFFE://example.org/a",
            "https://example.org/a",
        ] {
            assert_eq!(read(none), None, "{none:?}");
        }
    }

    #[test]
    fn lengths_are_limited() {
        let label = "a".repeat(MAX_LABEL);
        let longest = [&label[..], &label, &label, &label[..61]].join(".");
        assert_eq!(longest.len(), MAX_DNS);
        assert!(CertificateName::dns(&longest).is_ok());
        assert!(CertificateName::dns(&format!("{longest}a")).is_err());
        assert!(CertificateName::dns(&"a".repeat(MAX_LABEL + 1)).is_err());
        let path = |length: usize| "a".repeat(length - "spiffe://d/".len());
        assert!(CertificateName::spiffe(&format!("spiffe://d/{}", path(MAX_SPIFFE))).is_ok());
        assert!(CertificateName::spiffe(&format!("spiffe://d/{}", path(MAX_SPIFFE + 1))).is_err());
        let domain = "d".repeat(MAX_TRUST_DOMAIN);
        assert!(CertificateName::spiffe(&format!("spiffe://{domain}/a")).is_ok());
        assert!(CertificateName::spiffe(&format!("spiffe://{domain}d/a")).is_err());
    }
}
